"""Progress: kept across deliveries and restarts, and rejected from callers that do not hold the lease."""

from __future__ import annotations

import pytest
from codeq_server.core.errors import Rejection
from codeq_server.core.heartbeats import report_progress
from codeq_server.core.model import Caller
from codeq_server.core.status import Outcome
from driven_shard import TENANT, WORKER, DrivenShard

PROGRESS = b'{"done": 0.5}'


@pytest.fixture
def driven() -> DrivenShard:
    return DrivenShard()


def tell(driven: DrivenShard, task_id: str, *, token: int | None = None, by: Caller = WORKER) -> None:
    report_progress(driven.shard, by, task_id, token, PROGRESS, None, driven.now)


@pytest.mark.parametrize("delay", [0, 10])
@pytest.mark.parametrize("end", [Outcome.COMPLETED, Outcome.FAILED])
def test_progress_of_the_first_delivery_survives_a_restart_and_the_tasks_end(
    driven: DrivenShard, end: Outcome, delay: int
) -> None:
    task_id = driven.create(delay=delay)
    driven.pass_time(delay)
    driven.claim()
    tell(driven, task_id)
    driven.write()
    driven.reopen()
    assert (driven.status(task_id), driven.view(task_id).progress) == ("CLAIMED", PROGRESS)
    driven.settle(task_id, end, error="x" if end is Outcome.FAILED else "")
    driven.write()
    driven.reopen()
    assert (driven.status(task_id), driven.view(task_id).progress) == (end.name, PROGRESS)


@pytest.mark.parametrize("way", ["nacked", "returned", "expired"])
def test_progress_is_preserved_while_the_task_waits_for_its_next_delivery(driven: DrivenShard, way: str) -> None:
    task_id = driven.create()
    driven.claim(lease=1000)
    tell(driven, task_id)
    driven.write()
    if way == "nacked":
        driven.nack(task_id)
    elif way == "returned":
        driven.give_back(task_id)
    else:
        driven.pass_time(1000)
    driven.write()
    assert driven.view(task_id).progress == PROGRESS
    assert driven.claim_ids() == [task_id]
    driven.write()
    assert driven.view(task_id).progress == PROGRESS
    driven.settle(task_id)
    assert driven.view(task_id).progress is None


def test_progress_extends_the_lease_only_on_request(driven: DrivenShard) -> None:
    task_id = driven.create()
    driven.claim(lease=1000)
    token, until = report_progress(driven.shard, WORKER, task_id, None, PROGRESS, None, driven.now)
    assert (token, until) == (driven.token(task_id), driven.wall + 1000)
    _, until = report_progress(driven.shard, WORKER, task_id, None, PROGRESS, 5000, driven.now)
    assert until == driven.wall + 5000
    driven.write()


def test_progress_of_a_task_that_is_not_held_is_rejected_and_changes_nothing(driven: DrivenShard) -> None:
    task_id = driven.create()
    with pytest.raises(Rejection) as refused:
        tell(driven, task_id)
    assert refused.value.reason.name == "TASK_NOT_CLAIMED"
    driven.claim()
    for token, by, reason in (
        (5, WORKER, "STALE_LEASE_TOKEN"),
        (None, Caller(TENANT, "v", "v"), "NOT_LEASE_OWNER"),
        (None, Caller("globex", "w", "w"), "TASK_NOT_FOUND"),
    ):
        with pytest.raises(Rejection) as refused:
            tell(driven, task_id, token=token, by=by)
        assert refused.value.reason.name == reason
    assert driven.view(task_id).progress is None
