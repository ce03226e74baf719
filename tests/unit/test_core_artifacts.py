"""Artifact rows: stored when a task ends, compared for a repeated outcome, handed over on removal."""

from __future__ import annotations

import pytest
from codeq_internal.v1.rows_pb2 import ArtifactRow
from codeq_server.core import keys
from codeq_server.core.artifacts import is_kept
from codeq_server.core.errors import Rejection
from codeq_server.core.redrive import redrive_task
from codeq_server.core.status import Outcome
from driven_shard import TENANT, DrivenShard

FILED = ArtifactRow(name="a", file=b"f" * 16, size=3, sha256=b"s" * 32)
LINKED = ArtifactRow(name="b", url="https://b")


@pytest.fixture
def driven() -> DrivenShard:
    return DrivenShard(retention_ms=1000)


def home_of(position: int) -> bytes:
    return keys.place_key(keys.lane_prefix(b"s", 1, 9), position)[1:]


@pytest.mark.parametrize("end", [Outcome.COMPLETED, Outcome.FAILED])
def test_artifacts_survive_a_restart(driven: DrivenShard, end: Outcome) -> None:
    task_id = driven.create()
    driven.claim()
    driven.settle(task_id, end, error="x" if end is Outcome.FAILED else "", artifacts=[FILED, LINKED])
    driven.write()
    driven.reopen()
    assert list(driven.view(task_id).artifacts) == [FILED, LINKED]
    assert driven.queue().filed == 1
    assert is_kept(driven.shard, home_of(1), FILED.file)
    assert not is_kept(driven.shard, home_of(1), b"g" * 16)
    assert not is_kept(driven.shard, home_of(2), FILED.file)


def test_sweep_hands_over_the_files_of_removed_tasks(driven: DrivenShard) -> None:
    for artifacts in ([FILED, LINKED], [LINKED], []):
        task_id = driven.create()
        driven.claim()
        driven.settle(task_id, artifacts=artifacts)
    driven.write()
    driven.reopen()
    driven.pass_time(1000)
    assert driven.shard.affect().gone_files == [(home_of(1), FILED.file)]
    assert driven.queue().filed == 0
    driven.write()
    assert driven.keys(b"st") == []


def test_repeated_outcome_is_recognized_whatever_its_file_is_called(driven: DrivenShard) -> None:
    task_id = driven.create()
    driven.claim()
    token = driven.token(task_id)
    verdict = driven.settle(task_id, token=token, artifacts=[FILED])
    again = ArtifactRow(name="a", size=3, sha256=b"s" * 32)
    assert driven.settle(task_id, token=token, artifacts=[again]) == verdict
    for other in ([], [FILED, LINKED], [ArtifactRow(name="a", size=3, sha256=b"t" * 32)], [LINKED]):
        with pytest.raises(Rejection):
            driven.settle(task_id, token=token, artifacts=other)
    assert list(driven.view(task_id).artifacts) == [FILED]
    assert driven.queue().filed == 1


def test_artifact_without_content_or_url_is_rejected_and_the_task_stays_claimed(driven: DrivenShard) -> None:
    task_id = driven.create()
    driven.claim()
    with pytest.raises(Rejection):
        driven.settle(task_id, artifacts=[ArtifactRow(name="a", size=3)])
    assert driven.status(task_id) == "CLAIMED"


def test_redrive_hands_over_the_files_of_the_previous_run(driven: DrivenShard) -> None:
    task_id = driven.create()
    driven.claim()
    driven.settle(task_id, Outcome.FAILED, error="x", artifacts=[FILED])
    driven.write()
    redrive_task(driven.shard, TENANT, task_id, driven.now)
    assert driven.shard.affect().gone_files == [(home_of(1), FILED.file)]
    assert (driven.status(task_id), driven.queue().filed) == ("PENDING", 0)
    driven.write()
