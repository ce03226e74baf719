"""Dashboards, alerts and runbooks: they name only metrics that exist, and belong together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from codeq_server.services.former_metrics import FORMER_NAMES

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "deploy" / "observability"
ALERTS = ROOT / "helm" / "codeq" / "files" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
DASHBOARDS = sorted((FILES / "grafana").glob("*.json"))
PARTS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
OF_OTHERS = {"up"}
"""Metrics that Prometheus makes itself."""
OF_PROCESSES = re.compile(r"process_(open_fds|max_fds|cpu_seconds_total|resident_memory_bytes)")


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def documented() -> set[str]:
    """Returns the names in the tables of the operator's guide; acceptance tests compare these with real scrapes."""
    return set(re.findall(r"^\| `(codeq_\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE))


def named(expression: str) -> set[str]:
    """Returns the metrics that an expression of PromQL names."""
    plain = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b((?:codeq|process)_[a-z0-9_]+|up)\b(?=\s*[{\[),/<>=-]|\s|$)", plain))


def unknown(expression: str) -> set[str]:
    """Returns the metrics that an expression names and that no server exports, or not for much longer."""
    known = documented() - FORMER_NAMES.keys()
    found = set()
    for name in named(expression) - OF_OTHERS:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        if name not in known and family not in known and not OF_PROCESSES.fullmatch(name):
            found.add(name)
    return found


def expressions(dashboard: Any) -> list[str]:
    queries = [each["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    return [*queries, *[target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]]


def test_checker_finds_unknown_and_former_names() -> None:
    assert unknown('rate(codeq_no_such_total{a="codeq_b"}[5m]) / up') == {"codeq_no_such_total"}
    assert unknown("sum(codeq_tasks_created_total)") == {"codeq_tasks_created_total"}
    assert unknown("histogram_quantile(0.9, codeq_commit_seconds_bucket) > process_open_fds") == set()


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_alert_names_existing_metrics_and_has_a_runbook(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert named(alert["expr"])
    assert unknown(alert["expr"]) == set()
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{name}.md")
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == PARTS
    assert re.search(
        rf"\[{name}\]\({name}\.md\) \| {alert['labels']['severity']} \|", (RUNBOOKS / "README.md").read_text()
    )


def test_every_runbook_of_an_alert_belongs_to_one() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("Codeq*.md")}
    assert pages == {alert["alert"] for alert in alerts()}


def test_every_alert_has_series_that_fire_it_and_series_that_do_not() -> None:
    tests = yaml.safe_load((FILES / "alerts_test.yml").read_text())["tests"]
    tested = []
    for test in tests:
        (check,) = test["promql_expr_test"]
        match = re.search(r'alertname="(\w+)"', check["expr"])
        assert match is not None
        tested.append(match[1])
        assert len(test["input_series"]) >= 2
        for series in test["input_series"]:
            assert unknown(series["series"]) == set()
    assert sorted(tested) == sorted(alert["alert"] for alert in alerts())


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: str(path.stem))
def test_dashboard_names_existing_metrics(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == f"codeq-{path.stem}"
    found = expressions(dashboard)
    assert all(named(each) for each in found)
    assert set().union(*map(unknown, found)) == set()
    assert [panel["id"] for panel in dashboard["panels"]] == list(range(1, len(dashboard["panels"]) + 1))
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]}
    assert len(places) == len(dashboard["panels"])


def test_documents_say_what_replaces_each_former_name() -> None:
    guide = (ROOT / "docs/operations.md").read_text()
    said = dict(re.findall(r"^\| `(codeq_\w+)` \| former name of `(codeq_\w+)", guide, re.MULTILINE))
    assert said == FORMER_NAMES


def test_there_are_dashboards_for_all_parts() -> None:
    assert [path.stem for path in DASHBOARDS] == ["cluster", "overview", "queue", "webhooks"]
