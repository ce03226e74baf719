"""The cluster simulator finds bugs: each of these bugs, planted one at a time, breaks a promise within a few seeds."""

from __future__ import annotations

import re
from contextlib import ExitStack
from types import FunctionType
from typing import Any, NamedTuple

import pytest
from cluster_run import simulate
from codeq_server.engine.runner import ShardRunner
from codeq_server.node.leading import Leading
from codeq_server.replication.raft.applying import AppliedState
from codeq_server.replication.raft.disk import Disk
from codeq_server.replication.raft.disk_identity import prepare
from codeq_server.replication.raft.group import Group
from codeq_server.replication.raft.leadership import LeaderLog, Leadership
from codeq_server.replication.raft.pending import Pending
from codeq_server.replication.raft.stored_log import StoredLog
from planting import planted

pytestmark = pytest.mark.interpreted

SEEDS_MAX = 40
"""Seeds within which a bug must be found."""


class Bug(NamedTuple):
    """Where to plant a bug (function, original expression, replacement), and a pattern of the expected violation."""

    places: list[tuple[Any, str, str]]
    found_by: str


BUGS: dict[str, Bug] = {
    "votes not synced": Bug(
        [(Group._persist, "sync = ready.must_sync or", "sync = bool(ready.entries) or")],
        "grants a vote that is not durable",
    ),
    "log not synced": Bug(
        [(Group._persist, "sync = ready.must_sync or", "sync = not ready.entries or")],
        "which is not durable on a majority|accepts entry .* which is not durable",
    ),
    "leftovers of a killed process not synced": Bug(
        [(prepare, "\n    store.sync()", "\n    pass")], "uses a log or a vote that is not durable"
    ),
    "acknowledged when proposed": Bug(
        [
            (
                LeaderLog.append,
                "return self._leadership.propose(self._term, batch)",
                (
                    "future = self._leadership.propose(self._term, batch); "
                    "future.done() or future.set_result(None); return future"
                ),
            )
        ],
        "not durable",
    ),
    "acknowledged before it is written": Bug(
        [
            (
                Group._apply,
                "self._disk.submit(",
                "self.leadership.pending.applied(done); self._disk.submit(",
            )
        ],
        "not durable|writes rows|contradict|inconsistent|CorruptRows|CORRUPT",
    ),
    "serves before its barrier": Bug(
        [
            (
                Leadership.note_state,
                "status.last_index if term else 0",
                "0; term and self._loop.call_soon(self._listener.leading, term)",
            )
        ],
        "serves in term . but has|contradict each other|inconsistent",
    ),
    "leads after it stepped down": Bug(
        [(Leadership.note_state, "status.last_index if term else 0", "status.last_index")],
        "two members serve in term 0",
    ),
    "read without confirmation": Bug(
        [(ShardRunner.durable, "confirmation = self._log.confirm()", "return None")],
        "had ended before the request|was told otherwise|is not found|durable",
    ),
    "applied mark in another write than its rows": Bug(
        [
            (
                Disk._write,
                "self._store.write(rows)",
                (
                    "marks = {key: rows[key] for key in rows if key[-1:] == b'a' and key[:2] == b'\\xf0g'}; "
                    "self._store.write({key: rows[key] for key in rows if key not in marks}); self._store.write(marks)"
                ),
            )
        ],
        "writes rows without an entry",
    ),
    "stale end of the log kept": Bug(
        [(StoredLog.append, "rows[keys.entry(index)] = None", "pass")],
        "the log of .* has entries after its last one",
    ),
    "batch applied whatever came before": Bug(
        [
            (AppliedState._apply_entry, "entry.term != term or entry.previous != self.applied.lsn", "False"),
            # A batch is lost on its way to the log, as if its rejection were ignored.
            (LeaderLog.append, "return", "if batch.lsn % 7 == 0: return asyncio.Future()\n    return"),
        ],
        "applies rows that differ from the log's",
    ),
    "log kept when a snapshot comes": Bug(
        [(StoredLog.replace, "for index in range(self.base + 1, self.last + 1)", "for index in ()")],
        "the log of .* has entry",
    ),
    "waiters told by index alone": Bug(
        [
            (Pending.applied, "accepted and wanted == term", "accepted"),
            (
                Leadership._lose,
                "self._leading_term = self._barrier = 0",
                "self._leading_term = self._barrier = 0; return",
            ),
        ],
        "not durable|CorruptRows|contradict|inconsistent|never ended|missing in the log|serve in term",
    ),
    "shard kept from an earlier leadership": Bug(
        [
            (
                Leading._open,
                "await self._loop.run_in_executor(None, opening.load, identity.epoch)",
                (
                    "self.__dict__.setdefault('kept', None) or await self._loop.run_in_executor"
                    "(None, opening.load, identity.epoch); self.kept = shard"
                ),
            )
        ],
        "Deadlock|never ended|nobody leads|is not above every earlier one",
    ),
    "epoch not raised": Bug(
        [(Leading._open, "opening.load, identity.epoch)", "opening.load, 1)")],
        "is not above every earlier one|included .* later",
    ),
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_planted_bug_is_found(bug: Bug) -> None:
    with ExitStack() as stack:
        for function, right, wrong in bug.places:
            assert isinstance(function, FunctionType)
            stack.enter_context(planted(function, right, wrong))
        lives = (simulate(seed) for seed in range(SEEDS_MAX))
        assert any(re.search(bug.found_by, life.violation) for life in lives)  # some lives show another symptom first
