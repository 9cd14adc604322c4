"""References in the texts of a scenario."""

from __future__ import annotations

import pytest

from services.agent.domain.references import InvalidReference, references_in, render
from services.common.json_values import JsonObject, JsonValue

INPUTS: JsonObject = {"csv": "a,b\n1,2", "limit": 3.0, "rows": [{"name": "north"}, {"name": "south"}], "empty": None}
OUTPUTS: JsonObject = {"find": {"memories": [{"content": "The goal is 10 %."}], "text": "${inputs.csv}"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("${inputs.csv}", "a,b\n1,2"),
        ("${inputs.limit}", 3),
        ("${inputs.rows}", [{"name": "north"}, {"name": "south"}]),
        ("${inputs.rows.1.name}", "south"),
        ("${inputs.empty}", None),
        ("first ${inputs.rows.0.name}, limit ${inputs.limit}", "first north, limit 3"),
        ("rows: ${inputs.rows}", 'rows: [{"name":"north"},{"name":"south"}]'),
        ("${steps.find.memories.0.content}", "The goal is 10 %."),
        ("$${inputs.csv} costs $5", "${inputs.csv} costs $5"),
        ({"code": "x", "input": {"csv": "${inputs.csv}"}}, {"code": "x", "input": {"csv": "a,b\n1,2"}}),
        (["${inputs.limit}", 1, None, True], [3, 1, None, True]),
    ],
)
def test_a_reference_stands_for_its_value(text: JsonValue, value: JsonValue) -> None:
    assert render(text, INPUTS, OUTPUTS) == value


def test_a_value_is_never_read_again_for_references() -> None:
    assert render("${steps.find.text}", INPUTS, OUTPUTS) == "${inputs.csv}"
    assert render("say ${steps.find.text}", INPUTS, OUTPUTS) == "say ${inputs.csv}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${inputs.missing}", "has csv, empty, limit, rows, not 'missing'"),
        ("${steps.other.text}", "steps has find, not 'other'"),
        ("${inputs.rows.2}", "the positions 0 to 1"),
        ("${inputs.rows.-1}", "positions"),
        ("${inputs.csv.x}", "nothing inside it"),
        ("${inputs.rows.²}", "is not a reference"),
        ("${inputs}", "is not a reference"),
        ("${os.environ}", "is not a reference"),
        ("${inputs.__class__.x}", "not '__class__'"),
        ("${inputs.a b}", "is not a reference"),
        ("${}", "is not a reference"),
        ("${inputs.csv", "not closed"),
    ],
)
def test_what_stands_for_nothing_is_refused_with_what_there_is(text: str, words: str) -> None:
    with pytest.raises(InvalidReference) as error:
        render(text, INPUTS, OUTPUTS)
    assert words in str(error.value)


def test_all_references_are_found_wherever_they_stand() -> None:
    value: JsonValue = {"a": ["x ${inputs.csv}", {"b": "${steps.find.text} ${steps.sum.result}"}], "c": "$${inputs.no}"}
    assert [reference.text for reference in references_in(value)] == ["inputs.csv", "steps.find.text", "steps.sum.result"]
