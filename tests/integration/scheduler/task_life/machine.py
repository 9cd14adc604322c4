"""The machine: any moves in any order, each of which the models foresee."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from services.scheduler.domain.dependency import FailurePolicy
from services.scheduler.domain.schedule import MissedRunPolicy, OverlapPolicy
from services.scheduler.domain.task import State
from tests.integration.scheduler.task_life.clock_moves import ClockMoves
from tests.integration.scheduler.task_life.graph_moves import GraphMoves
from tests.integration.scheduler.task_life.letter_moves import LetterMoves
from tests.integration.scheduler.task_life.model import TENANT
from tests.integration.scheduler.task_life.payload_moves import PayloadMoves
from tests.integration.scheduler.task_life.queue_moves import QueueMoves
from tests.integration.scheduler.task_life.task_moves import Wanted
from tests.integration.scheduler.task_life.world import World

ENDS = ("complete", "step one", "step two", "fail", "fail now", "fail badly", "fail for good", "wait red", "wait blue")
OUTPUT = ("put out", "put out", "put out twice", "put out again", "put out more", "get on", "get on")
REPORTS = (*ENDS, *OUTPUT)
LEASES = ("lease", "lease", "lease", "lease", "die", "die and sweep")
CHANGES = ("child", "tool", "after", "after", "unblock", "beat", "beat and tell", "sweep", "cancel", "look")
SIGNALS = ("signal red", "signal blue", "signal the awaited", "signal the awaited")
TIMES = ("late", "overdue", "slow", "quiet", "lost", "due", "come", "come", "tick")
LIMITS = ("limit", "limit", "limit keys", "drip", "pause", "resume", "resume", "unlimit")
QUEUES = (
    *LIMITS,
    "defaults",
    "defaults",
    "offer to another",
    "take over",
    "depose",
    "depose",
    "let flow",
    "let flow",
    "make room",
    "make room",
    "delete queue",
    "empty and delete queue",
    "share",
    "share",
    "share",
)
LETTERS = (
    "replay",
    "break and replay",
    "break and replay",
    "replay failed",
    "replay failed",
    "replay again",
    "replay all",
    "dismiss",
)
CLOCKS = ("clock", "clock", "clock", "look at the clock", "trigger", "backfill", "pause the clock", "resume the clock")
GRAPHS = ("graph", "graph", "graph", "graph again", "unblock", "unblock")
PAYLOADS = (
    "upload",
    "context",
    "context",
    "context again",
    "context again",
    "hand over",
    "hand over",
    "delete payload",
    "sweep payloads",
)
# What moves a task on comes more often. Each life has one of these, so that it comes far in something.
PLAIN = (*LEASES, *ENDS, *CHANGES, *TIMES, *SIGNALS)
THEMES = {
    "tasks": (*PLAIN, *OUTPUT),
    "output": (*PLAIN, *OUTPUT, *OUTPUT),
    "queues": (*PLAIN, "get on", *QUEUES, *QUEUES),
    "letters": (*PLAIN, *LETTERS, "fail for good", "fail for good", "fail for good"),
    "clocks": (*PLAIN, *CLOCKS, *CLOCKS),
    "graphs": (*PLAIN, *GRAPHS, *GRAPHS),
    "payloads": (*PLAIN, *PAYLOADS, *PAYLOADS),
    "all": (*PLAIN, *OUTPUT, *QUEUES, *LETTERS, *CLOCKS, *GRAPHS, *PAYLOADS),
}
MIXED = (*THEMES, "queues", "letters")
"""the themes of lives of all kinds, those with the most states more often."""
Move = tuple[str, int, int, int]


def moves_of(names: Sequence[str]) -> st.SearchStrategy[list[Move]]:
    """Some moves, each with the place of a task, a number, and how many attempts ago."""
    move = st.tuples(st.sampled_from(names), st.integers(0, 9), st.integers(1, 4), st.sampled_from([0, 0, 0, 1]))
    return st.lists(move, min_size=6, max_size=16)


class TaskLife(QueueMoves, LetterMoves, ClockMoves, GraphMoves, PayloadMoves):
    """Bound to a world by `machine_over`."""

    theme = "tasks"
    themes: Sequence[str] = MIXED

    @initialize(
        number=st.integers(3, 6),
        most=st.sampled_from([2, 3, 5]),
        data=st.data(),
        policy=st.sampled_from(list(OverlapPolicy)),
        missed=st.sampled_from([*MissedRunPolicy, MissedRunPolicy.RUN_ALL]),
    )
    def begin(self, number: int, most: int, data: st.DataObject, policy: OverlapPolicy, missed: MissedRunPolicy) -> None:
        """Some tasks that run already: a machine that has to find its way to them spends its steps on that."""
        self.theme = data.draw(st.sampled_from(self.themes))
        self.graphs, self.contexts = {}, {}
        self.make_clock(policy, missed)
        answers = self.world.do(
            self.world.batches.create([self.asked(self.message(1, most, "begin", key="x")) for _ in range(number)])
        )
        for answer in answers:
            assert not isinstance(answer, Exception), answer
            self.keep(answer.task_id, 1, most, key="x")
        self.start(number - 1, dying=False)

    @rule(
        wanted=st.lists(
            st.tuples(
                st.booleans(),
                st.sampled_from(["", "", "r1", "r2"]),
                st.integers(1, 2),
                st.sampled_from([0, 1, 2, 4]),
                st.sampled_from("ab"),
                st.sampled_from(["", "", "timed", "later"]),
                st.sampled_from(["", "x", "x", "y"]),
                st.sampled_from([0, 0, 1]),
            ),
            min_size=1,
            max_size=3,
        ),
        dying=st.booleans(),
    )
    def create_some(self, wanted: list[Wanted], dying: bool) -> None:
        """Several in one transaction."""
        self.create(wanted, dying=dying)

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """Many moves, one after another; reports that stand together are told in one transaction.

        One rule with many moves, since a machine that draws one rule at a time keeps far from the rare states.
        """
        moves = data.draw(moves_of(THEMES[self.theme]))
        for reporting, group in itertools.groupby(moves, key=lambda move: move[0] in REPORTS):
            if reporting:
                self.report([report for what, place, _, back in group for report in self.reported(self.at(place), what, back)])
                continue
            for what, place, number, back in group:
                self.move(what, place, number, back)

    def move(self, what: str, place: int, number: int, back: int) -> None:
        """One move."""
        if what in LIMITS:
            self.limit(what, place, number)
        elif what in QUEUES:
            self.move_queue(what, place, number)
        elif what in LETTERS:
            self.move_letter(what, place)
        elif what in PAYLOADS:
            self.move_payload(what, place, number)
        elif what in CLOCKS:
            self.move_clock(what, place, number)
        elif what in LEASES:
            self.move_leases(what, number)
        elif what in (*TIMES, *SIGNALS):
            self.move_time(what, place, back)
        else:
            self.move_task(what, place, number, back)

    def move_leases(self, what: str, number: int) -> None:
        """A worker asks for tasks, of those that replicas race for and of those that one of them decides on."""
        self.start(number, dying=what != "lease")
        if what == "die and sweep":
            self.sweep()
            self.start(number, dying=False)
        self.offer(number)

    def move_task(self, what: str, place: int, number: int, back: int) -> None:
        """Something is done to a task."""
        match what:
            case "child":
                self.create_child(self.at(place), back, by_worker=number > 1)
            case "tool":
                self.call_tool(self.at(place), back)
            case "after":
                self.create_after([self.at(place), self.at(place + number)], FailurePolicy(1 + (place + back) % 3))
            case "graph" | "graph again":
                if what == "graph again":
                    # Mostly the same as before.
                    self.create_graph(f"g{place % 2}", (3 + number // 4, 1, 0, ""))
                else:
                    self.create_graph("", (2 + number, 1 + place % 3, back, self._own_at(place) if place % 2 else ""))
            case "unblock":
                self.unblock()
            case "beat" | "beat and tell":
                progress = 0.5 if what == "beat and tell" else None
                self.heartbeat([(self.at(place + more), back) for more in range(number)], progress)
            case "sweep":
                self.sweep()
            case "cancel":
                self.cancel(self.at(place))
            case "look":
                self.compare(self.at(place))

    def move_time(self, what: str, place: int, back: int) -> None:
        """Time passes for a task, or a signal comes."""
        match what:
            case "late" | "overdue" | "slow" | "quiet" | "lost" | "due":
                self.pass_time(self.at(place), what)
            case "come":
                # Those that wait for a moment are few.
                resting = [model for model in self.models.values() if model.state in (State.SCHEDULED, State.WAITING)]
                if resting:
                    self.pass_time(resting[place % len(resting)], "due")
                self.tick()
            case "tick":
                self.tick()
            case "signal the awaited":
                waiting = [model for model in self.models.values() if model.state is State.WAITING]
                if waiting:
                    model = waiting[place % len(waiting)]
                    self.signal(model, model.signal, back)
            case "signal red" | "signal blue":
                self.signal(self.at(place), what.removeprefix("signal "), back)

    def move_queue(self, what: str, place: int, number: int) -> None:
        """Something is done to the queue, or to those who decide."""
        match what:
            case "defaults":
                self.set_defaults(place, number)
            case "offer to another":
                self.offer_to_another(number)
            case "take over":
                self.change_owner()
            case "let flow":
                queue = self.queue_at(place)
                self.make_room(queue)
                # More than are saved up.
                self.create([(False, "", 1, 2, "a", "", "", self.queues.index(queue))] * 3, dying=False)
                self.limit("flow", place, number)
                self.offer(4)
            case "make room":
                queue = self.queue_at(place)
                self.make_room(queue)
                # Whoever comes behind all that waits starts at once, unless its queue holds it back by something else.
                self.create([(True, "", 1, 2, "b", "", "", self.queues.index(queue))], dying=False)
            case "share":
                self.create_guests(place, number)
            case "delete queue":
                self.delete(self.queues[1])
            case "empty and delete queue":
                self.empty(self.queues[1])
                self.delete(self.queues[1])
            case "depose":
                self.change_owner()
                # It has not heard of it, mostly.
                self.offer_to_another(number)

    def move_letter(self, what: str, place: int) -> None:
        """Something is done to what failed."""
        match what:
            case "replay":
                self.replay(self.at(place), again=False)
            case "break and replay":
                model = self.at(place)
                if model.state is State.RUNNING and not model.late:
                    self.create_after([model], FailurePolicy.FAIL)
                    self.report(self.reported(model, "fail for good", 0))
                    self.replay_all()
            case "replay failed" | "replay again":
                failed = [model for model in self.models.values() if model.state is State.FAILED]
                if failed:
                    self.replay(failed[place % len(failed)], again=what == "replay again")
            case "replay all":
                self.replay_all()
            case "dismiss":
                self.dismiss()

    def _own_at(self, place: int) -> str:
        """A task that what is created next may wait for."""
        model = self.at(place)
        return model.task_id if model.tenant == TENANT else ""

    def move_payload(self, what: str, place: int, number: int) -> None:
        """Something is done to a payload, or with one."""
        match what:
            case "upload":
                self.upload(number)
            case "context":
                self.create_with(place, "")
            case "context again":
                self.create_with(place, f"p{place % 2}")
            case "hand over":
                self.complete_with(place)
            case "delete payload":
                self.delete_payload(place)
            case "sweep payloads":
                self.sweep_payloads(place)

    def move_clock(self, what: str, place: int, number: int) -> None:
        """Something is done to the schedule."""
        match what:
            case "clock":
                self.come(number)
            case "look at the clock":
                self.come(0)
            case "trigger":
                self.trigger(f"t{place % 3}" if place < 6 else "")
            case "backfill":
                self.backfill(f"b{place % 2}", number)
            case "pause the clock":
                self.pause_clock()
            case "resume the clock":
                self.resume_clock()

    def teardown(self) -> None:
        """Compares everything, and leaves nothing that others would see."""
        for model in self.models.values():
            self.compare(model)
            self.world.seen.update(kind for kind, _ in model.events)
        if self.models:
            self.compare_clock()
        self.compare_payloads()
        self.forget_clock()


def machine_over(world: World, themes: Sequence[str] = MIXED) -> type[TaskLife]:
    """The machine, bound to a database; its lives have these themes."""
    return cast(type[TaskLife], type("TaskLife", (TaskLife,), {"world": world, "themes": themes}))
