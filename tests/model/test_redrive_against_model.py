"""The core beside the reference model, with redrives among everything else that happens to tasks."""

from __future__ import annotations

import pytest
from codeq_server.core import redrive
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from search import search
from test_core_against_model import CoreBesideModel
from tiny_limits import make_limits_tiny

EXAMPLES_LEAST = 400


class RedriveBesideModel(CoreBesideModel):
    """Gives ended tasks other lives as well."""

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data())
    def redrive(self, data: st.DataObject) -> None:
        tasks = self.model.tasks.values()
        ended = [task for task in tasks if task.status in {"DLQ", "FAILED", "CANCELLED"}]
        task = data.draw(st.sampled_from(ended or list(tasks)))
        now = self.now()
        self.both(
            lambda: redrive.redrive_task(self.shard, task.tenant, task.task_id, now),
            lambda: self.model.redrive(task.tenant, task.task_id),
        )


@pytest.mark.timeout(3600)
def test_redrive_beside_model_does_and_shows_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    make_limits_tiny(monkeypatch)
    search(RedriveBesideModel, EXAMPLES_LEAST, steps=60)
