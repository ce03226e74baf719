"""The core against the reference model: every end of a task with a webhook is reported, at least once.

The order of first attempts is up to the core. Everything else follows from the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from accepted_tasks import create
from codeq_server.core import callbacks, lookup, sweep
from codeq_server.core.clock import Now
from codeq_server.core.model import Queue
from codeq_server.core.shard import Shard
from codeq_server.core.status import Status
from expiring import ExpiringTask
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from named_work import COMMANDS, TENANTS
from reference import Task
from search import search
from test_control_against_model import ControlBesideModel
from tiny_limits import make_limits_tiny

EXAMPLES_LEAST = 400
URL = "https://example.com/hook"
CALLBACKS_KEPT = 3
LATER_MS = 2_000
DELAYS_MS = (1_000, 3_000)
NEW, WAITING, DELIVERED, GAVE_UP = range(4)


@dataclass
class Report:
    """A callback: the end that it reports, and its state."""

    status: str
    error: str
    result: bytes | None
    state: int = NEW
    tries: int = 0
    attempts: int = 0
    delivery_id: str = ""
    settled_ms: int = 0


@dataclass
class CalledTask(ExpiringTask):
    """A task with a webhook; each of its ends adds a report, and a redrive drops all but the last ones."""

    calls: list[Report] = field(default_factory=list)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "kept_until" and "calls" in self.__dict__:
            if value == 0:  # the last change of every end
                self.calls.append(Report(self.status, self.error or "", self.result))
            elif value is None:
                del self.calls[: 1 - CALLBACKS_KEPT]
        object.__setattr__(self, name, value)

    @property
    def is_pending(self) -> bool:
        return any(call.state in {NEW, WAITING} for call in self.calls)


class CallsBesideModel(ControlBesideModel):
    """Creates tasks with webhooks, and attempts their callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.calling: list[tuple[callbacks.Callback, Report]] = []
        """Attempts under way."""
        self.no_turns: list[Queue] = []
        """Queues that got no turn because their tenant had no room."""

    def reopen(self) -> None:
        self.calling, self.no_turns = [], []
        super().reopen()

    def called(self) -> list[CalledTask]:
        return [task for task in self.model.tasks.values() if isinstance(task, CalledTask)]

    @rule(
        tenant=st.sampled_from(TENANTS),
        command=st.sampled_from(COMMANDS),
        delays=st.lists(st.sampled_from([0, 0, 500]), min_size=1, max_size=4),
        expire=st.sampled_from([0, 0, 1000]),
    )
    def create_called(self, tenant: str, command: str, delays: list[int], expire: int) -> None:
        now = self.now()
        until = now.wall_ms + expire if expire else 0
        for delay in delays[: int(max(0, min(4, self.model.room(tenant))))]:
            due = now.wall_ms + delay if delay else 0
            task_id, _ = create(self.shard, tenant, command, b"1", 5, 2, due, now, until, URL)
            self.model.create([CalledTask(task_id, tenant, command, 5, 2, b"1", expire=until)], due, now.wall_ms)
            self.note_homes(tenant, [task_id])

    @precondition(lambda self: self.called())
    @rule(again=st.booleans(), room=st.sampled_from([0, 1, 5]))
    def take_calls(self, again: bool, room: int) -> None:
        """Takes callbacks to attempt: each is pending, and says how its task ended."""
        self.take(room, again=again)

    def take(self, room: int, *, again: bool) -> bool:
        """Takes callbacks; returns whether any queue had a turn."""
        take = callbacks.take_again if again else callbacks.take_first
        taken = take(self.shard, lambda _: room, self.now())
        if taken is None:
            return False
        queue, found = taken
        assert len(found) <= room
        if not room:
            self.no_turns.append(queue)
        for callback in found:
            report = self.report_of(callback)
            told = (callback.status.name, callback.error, callback.result)
            assert told == (report.status, report.error, report.result)
            assert report.state == (WAITING if again else NEW)
            assert (callback.url, callback.attempt) == (URL, report.attempts + 1)
            assert report.delivery_id in {"", callback.delivery_id}
            report.delivery_id = callback.delivery_id
            self.calling.append((callback, report))
        return True

    def report_of(self, callback: callbacks.Callback) -> Report:
        task = self.model.tasks[callback.queue.tenant, callback.task_id]
        assert isinstance(task, CalledTask)
        home, position = lookup.find_home(self.shard, task.tenant, task.task_id)
        positions = [each for each, _ in callbacks.callbacks_at(self.shard, home, position)]
        return task.calls[positions.index(callback.position)]

    @precondition(lambda self: self.calling)
    @rule(data=st.data(), status=st.sampled_from([200, 204, 0, 500, 404, -1]), count=st.integers(1, 3))
    def answer(self, data: st.DataObject, status: int, count: int) -> None:
        """Attempts end, in any order; -1: the receiver was busy."""
        for _ in range(min(count, len(self.calling))):
            self.answer_one(data.draw(st.integers(0, len(self.calling) - 1)), status)

    def answer_one(self, index: int, status: int) -> None:
        callback, report = self.calling.pop(index)
        known = self.model.tasks.get((callback.queue.tenant, callback.task_id))
        kept = isinstance(known, CalledTask) and any(each is report for each in known.calls)
        pending, now = kept and report.state in {NEW, WAITING}, self.now()
        if status < 0:
            callbacks.put_off(self.shard, callback, 700, now)
            report.state = WAITING if pending else report.state
            return
        call = callbacks.Call(now.wall_ms, status, 5, "timeout")
        outcome = callbacks.settle(self.shard, callback, call, DELAYS_MS, 0.5, now)
        if not pending:
            assert outcome == ""
            return
        report.tries += 1
        report.attempts += 1
        if status in {0, 500} and report.tries <= len(DELAYS_MS):
            assert outcome == "retried"
            report.state = WAITING
        else:
            report.state = DELIVERED if status in {200, 204} else GAVE_UP
            report.settled_ms = now.wall_ms
            assert outcome == ("delivered" if report.state == DELIVERED else "gave_up")

    @precondition(lambda self: self.called())
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """Replays the callbacks of a task that were given up or wait."""
        task = data.draw(st.sampled_from(self.called()))
        home, position = lookup.find_home(self.shard, task.tenant, task.task_id)
        rows = callbacks.callbacks_at(self.shard, home, position)
        for (each, row), report in zip(rows, task.calls, strict=True):
            done = callbacks.replay(self.shard, home.queue, each, row, self.now())
            assert done == (report.state in {WAITING, GAVE_UP})
            if done:
                report.state, report.tries = WAITING, 0

    @precondition(lambda self: self.called())
    @rule()
    def deliver_all(self) -> None:
        """The receiver accepts everything: no callback is left without an attempt, or past its time."""
        for queue in self.no_turns:
            callbacks.give_turns(self.shard, queue)
        self.no_turns.clear()
        for again in (False, True):
            while self.calling or self.take(5, again=again):
                while self.calling:
                    self.answer_one(0, 200)
        now = self.now()
        for task in self.called():
            home, position = lookup.find_home(self.shard, task.tenant, task.task_id)
            due = [row.due_ms for _, row in callbacks.callbacks_at(self.shard, home, position)]
            assert all(each == 0 or each > now.wall_ms for each in due)
            assert all(call.state != NEW for call in task.calls)

    def check_same(self, shard: Shard) -> None:
        """The rows of a task list its callbacks, each in the state of the model."""
        super().check_same(shard)
        for task in self.called():
            home, position = lookup.find_home(shard, task.tenant, task.task_id)
            rows = [row for _, row in callbacks.callbacks_at(shard, home, position)]
            shown = [(Status(row.status).name, row.state, row.tries, row.attempts_total) for row in rows]
            assert shown == [(call.status, call.state, call.tries, call.attempts) for call in task.calls]
        for queue in shard.queues.values():
            own = [t for t in self.called() if (t.tenant, t.command) == (queue.tenant, queue.command)]
            states = [call.state for task in own for call in task.calls]
            outbox = queue.outbox
            assert queue.hooked == len(own)
            assert (outbox.pending if outbox else 0) == states.count(NEW) + states.count(WAITING)
            assert (outbox.gave_up if outbox else 0) == states.count(GAVE_UP)

    def forgettable(self, now: Now) -> list[Task]:
        return [task for task in super().forgettable(now) if not isinstance(task, CalledTask)]

    def run_due(self, slices: int = 10_000) -> None:
        """Runs the timers: the sweep removes only tasks whose callbacks are settled."""
        super().run_due(slices)
        now = self.now()
        for task in self.called():
            key = (task.tenant, task.task_id)
            if not self.exists(task):
                assert 0 < (task.kept_until or 0) <= now.wall_ms
                assert not task.is_pending
                self.removed[self.homes[key]] = key
                del self.model.tasks[key]

    @rule()
    def quiesce(self) -> None:
        """Tasks are gone once their retention is over and their callbacks have been settled for a while."""
        super().quiesce()
        now = self.now()
        for task in self.called():
            if task.kept_until and not task.is_pending:
                settled = max(call.settled_ms for call in task.calls)
                assert now.wall_ms < max(task.kept_until, settled + LATER_MS)


@pytest.mark.timeout(3600)
def test_core_matches_the_model_while_callbacks_are_attempted(monkeypatch: pytest.MonkeyPatch) -> None:
    make_limits_tiny(monkeypatch)
    for module, name, value in (
        (sweep, "LATER_MS", LATER_MS),
        (callbacks, "CALLBACKS_KEPT", CALLBACKS_KEPT),
        (callbacks, "TURN", 2),
        (callbacks, "LOOK_MAX", 3),
    ):
        monkeypatch.setattr(module, name, value)
    search(CallsBesideModel, EXAMPLES_LEAST, steps=60)
