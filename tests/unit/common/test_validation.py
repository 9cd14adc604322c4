import json
import time

import pytest
from guildmesh.memory.v1 import memory_service_pb2 as memory_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.errors import InvalidRequest
from services.common.plain_text import strip_html
from services.common.validation import json_size, validate, validate_each

LIMIT = 1_048_576


def violations(message: object) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        validate(message)  # type: ignore[arg-type]
    return dict(caught.value.violations)


@pytest.mark.parametrize("length", [1, 10_000])
def test_a_task_text_of_an_allowed_length_passes(length: int) -> None:
    validate(pb.SubmitTaskRequest(task="ä" * length))


@pytest.mark.parametrize("text", ["", "x" * 10_001, "<b></b>", "<script>alert(1)</script>", "  "])
def test_a_task_text_that_is_too_short_or_too_long_names_the_field(text: str) -> None:
    assert "task" in violations(pb.SubmitTaskRequest(task=text))


@pytest.mark.parametrize(("field", "value"), [("priority", 0), ("priority", 11), ("timeout", 9), ("timeout", 3601)])
def test_a_number_outside_its_limits_names_the_field(field: str, value: int) -> None:
    assert field in violations(pb.SubmitTaskRequest(task="x", **{field: value}))


@pytest.mark.parametrize("filler", ["x", "ä", "\x01", '"'])
def test_a_context_of_exactly_one_mebibyte_passes_and_one_byte_more_does_not(filler: str) -> None:
    def request(count: int, extra: str = "") -> pb.SubmitTaskRequest:
        message = pb.SubmitTaskRequest(task="x")
        message.context.update({"a": filler * count + extra})
        return message

    size = len(json.dumps(filler, ensure_ascii=False).encode()) - 2
    count, rest = divmod(LIMIT - len('{"a":""}'), size)
    exact = request(count, "y" * rest)
    assert json_size(exact.context) == LIMIT
    validate(exact)
    assert "context" in violations(request(count, "y" * (rest + 1)))


def test_numbers_in_a_context_are_measured_as_json_writes_them() -> None:
    message = pb.SubmitTaskRequest(task="x")
    message.context.update({"whole": 3, "part": 0.5, "none": None, "yes": True})
    assert json_size(message.context) == len('{"whole":3,"part":0.5,"none":null,"yes":true}')


def test_a_nul_is_refused_wherever_it_stands() -> None:
    assert "task" in violations(pb.SubmitTaskRequest(task="a\x00b"))
    deep = pb.SubmitTaskRequest(task="x")
    deep.context.update({"a": [{"b": "c\x00", "n": 1.0}]})
    assert "context" in violations(deep)
    labelled = pb.CreateTaskRequest(task=task_pb2.Task(description="x", labels={"a": "\x00"}))
    assert any(name.startswith("task.labels") for name in violations(labelled))
    several = memory_pb.AppendMessagesRequest(conversation_id="-", messages=[{"role": "user", "content": "a\x00"}])
    assert "messages[0].content" in violations(several)


def test_a_string_without_a_limit_of_its_own_has_at_most_fifty_thousand_characters() -> None:
    validate(pb.ListTasksRequest(page_token="x" * 50_000))
    assert "page_token" in violations(pb.ListTasksRequest(page_token="x" * 50_001))


def test_html_is_taken_out_of_a_nested_plain_text_field() -> None:
    request = pb.CreateTaskRequest(task=task_pb2.Task(description="<p>Sum <b>up</b></p> the year"))
    validate(request)
    assert request.task.description == "Sum up the year"


@pytest.mark.parametrize(
    "text",
    ["if a < b and c > d", "R&D", "a &amp; b &lt;b&gt;", "x<3", "1 < 2", "tab\tand\nline", "é \u00a0 ü", "&lt;script&gt;"],
)
def test_text_that_only_looks_like_html_stays_as_it_is(text: str) -> None:
    assert strip_html(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a<!-- c -->b", "ab"),
        ("<style>p{}</style>x", "x"),
        ("<<b>script>x<</b>/script>", ""),
        ('<a href="x">y</a>', "y"),
        ("<img src=x onerror=alert(1)>z", "z"),
    ],
)
def test_tags_are_taken_out_until_none_is_left(text: str, left: str) -> None:
    assert strip_html(text) == left


def test_a_text_that_nests_tags_without_end_is_refused_in_reasonable_time() -> None:
    started = time.perf_counter()
    nested = "<" * 2_000 + "<b>" * 1_000 + "script>"
    result = strip_html(nested[:10_000])
    assert result is None or "<b>" not in result
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_write_is_refused(number: float) -> None:
    request = pb.CreateTaskRequest(task=task_pb2.Task(description="x"))
    request.task.context.fields["x"].number_value = number
    assert "finite numbers only" in str(violations(request))


@pytest.mark.parametrize("padding", [0, 50_000])
def test_each_item_of_a_batch_has_the_answer_that_it_would_have_alone(padding: int) -> None:
    # Padding makes the batch too long to be told clean as a whole.
    tasks = [
        task_pb2.Task(description="good", labels={"pad": "y" * 200}),
        task_pb2.Task(description="nul\x00"),
        task_pb2.Task(kind="Bad", description=""),
        task_pb2.Task(description="<i>plain</i>"),
        task_pb2.Task(description="<i></i>"),
        *[task_pb2.Task(description="z" * 10_000) for _ in range(padding // 10_000)],
    ]
    tasks[0].context.update({"number": 1.0, "null": None})
    alone = [pb.CreateTaskRequest(task=task) for task in tasks]
    batch = pb.BatchCreateTasksRequest(requests=alone)
    answers = validate_each(batch, "requests")
    for item, copy, answer in zip(batch.requests, alone, answers, strict=True):
        if answer is None:
            validate(copy)
        else:
            assert dict(answer.violations) == violations(copy)
        assert item == copy
    assert [answer is None for answer in answers[:5]] == [True, False, False, True, False]
    assert set(dict(answers[2].violations)) == {"task.kind", "task.description"} if answers[2] else False
    assert validate_each(pb.BatchCreateTasksRequest(), "requests") == []


def test_one_bad_completion_among_many_is_named_by_its_place() -> None:
    def completion(number: int) -> worker_pb.TaskCompletion:
        return worker_pb.TaskCompletion(task_id=str(number), attempt=1, result={"string_value": "x" * 200})

    request = worker_pb.WorkRequest(completions=[completion(number) for number in range(500)])
    validate(request)
    request.completions[3].result.number_value = 0
    request.completions[4].result.null_value = 0
    validate(request)
    request.completions[123].result.string_value = "a\x00"
    request.completions[400].task_id = "\x00"
    assert violations(request) == {
        "completions[123].result": "must not contain the NUL character (U+0000)",
        "completions[400].task_id": "must not contain the NUL character (U+0000)",
    }
