"""Artifacts on a cluster node: contents are rejected because they are not replicated; URLs are stored."""

from __future__ import annotations

import base64
from pathlib import Path

from lone_member import lone_member, post


def test_cluster_rejects_artifact_content_but_stores_artifact_urls(tmp_path: Path) -> None:
    with lone_member(tmp_path / "server") as server:
        assert post(server, "/tasks", {"command": "A", "payload": 1, "taskId": "one"}).status_code == 202
        assert post(server, "/tasks/claim", {"commands": ["A"]}).status_code == 200
        content = {"name": "a.txt", "contentBase64": base64.b64encode(b"text").decode()}
        refused = post(server, "/tasks/one/result", {"status": "COMPLETED", "artifacts": [content]})
        assert refused.status_code == 400
        assert refused.json()["details"][0]["field"] == "artifacts[0].contentBase64"
        kept = {"name": "b.txt", "url": "https://files.example/b.txt"}
        done = post(server, "/tasks/one/result", {"status": "COMPLETED", "artifacts": [kept]})
        assert done.status_code == 200
        assert done.json()["artifacts"][0]["url"] == kept["url"]
