"""The README and the operator's guide, as printed, against a real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from authority import Authority, trusting
from entry_points import describe_server
from server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SECONDS_MAX = 40
EXAMPLE_LINES_MAX = 15
DOCUMENTS_WITH_CALLS = ("webhooks", "policies")


def block(after: str, language: str) -> str:
    """Returns the README's first code block in a language after a text."""
    found = re.search(rf"{re.escape(after)}.*?```{language}\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no {language} block after {after!r}"
    return found[1]


def test_readme_first_task_ends_with_its_result(server: ServerProcess) -> None:
    script = block("## A first task", "sh").replace("http://localhost:8080", server.http_url)
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-euc", script], capture_output=True, text=True, check=True, timeout=SECONDS_MAX
        ).stdout
        assert done.count('"status":"COMPLETED"') == 3  # the record twice, the task once
        assert '"result":{"width":640}' in done


def test_readme_claim_on_an_empty_queue_says_so(server: ServerProcess) -> None:
    script = block("## A first task", "sh").replace("http://localhost:8080", server.http_url)
    settings, _, rest = script.partition("# a producer")
    claim = rest.partition("# a worker")[2].partition("# the worker")[0].replace('"waitSeconds":10', '"waitSeconds":0')
    claim = f"# a worker{claim}".replace("RESIZE_IMAGE", "NOTHING_HERE")
    done = subprocess.run(["bash", "-euc", settings + claim], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("claimed: nothing, create a task first\n", "")


def test_readme_python_worker_completes_the_producers_task(server: ServerProcess, tmp_path: Path) -> None:
    programs = {name: block(f"`{name}.py`", "python") for name in ("producer", "worker")}
    for name, source in programs.items():
        assert len(source.splitlines()) <= EXAMPLE_LINES_MAX
        (tmp_path / f"{name}.py").write_text(source)
    env = os.environ | {"CODEQ_PRODUCER_ADDR": server.producer_addr, "CODEQ_WORKER_ADDR": server.worker_addr}
    command = [sys.executable, "-u"]
    with subprocess.Popen([*command, "worker.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as worker:
        try:
            produced = subprocess.run(
                [*command, "producer.py"],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                check=True,
                timeout=SECONDS_MAX,
            ).stdout
        finally:
            worker.terminate()
        seen = worker.communicate(timeout=SECONDS_MAX)[0]
    assert seen == "resizing cat.png\n"
    assert produced.startswith("created ")
    assert produced.endswith("{'width': 640}\n")
    assert worker.returncode == 0


def test_readme_calls_for_policies_keys_schedules_callbacks_and_signals_are_accepted(server: ServerProcess) -> None:
    settings = block("## A first task", "sh").partition("# a producer")[0]
    script = (settings + block("## Policies, keys", "sh")).replace("http://localhost:8080", server.http_url)
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True, timeout=SECONDS_MAX)
    policy, by_customer, by_order, schedule, reported, subscription = map(json.loads, done.stdout.splitlines())
    assert policy["policy"] == {"maxConsumers": 20, "concurrencyPerKey": 1}
    assert by_customer["concurrencyKey"] == "customer-7"
    assert (by_order["orderingKey"], by_order["orderingNumber"]) == ("order-42", 1)
    assert schedule["next"][0].partition("T")[2].startswith("02:30:00+0")
    assert reported["webhook"] == "http://localhost:9000/ended"
    assert subscription["subscriptionId"]


@pytest.mark.parametrize("document", DOCUMENTS_WITH_CALLS)
def test_calls_of_documents_are_accepted_as_printed(server: ServerProcess, document: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / f"docs/{document}.md").read_text(), re.DOTALL)
    assert blocks
    for script in blocks:
        printed = script.replace("http://localhost:8080", server.http_url).replace(
            "curl ", "curl -sS --fail-with-body "
        )
        done = subprocess.run(
            ["bash", "-euc", printed], capture_output=True, text=True, check=False, timeout=SECONDS_MAX
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_readme_test_server_delivers_a_delayed_task_at_once(tmp_path: Path) -> None:
    path = os.pathsep.join([str(describe_server(tmp_path)), os.environ.get("PYTHONPATH", "")])
    program = block("its clock moves on request", "python")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS_MAX,
    )
    assert done.stdout == "PENDING\n"


def test_operations_document_lists_exactly_the_exposed_metrics(tmp_path: Path) -> None:
    files = Authority().files(tmp_path / "certificates")
    with ServerProcess(tmp_path / "server", env=files.server_env, apart=False) as server:
        shown = httpx.get(f"{server.http_url}/metrics", verify=trusting(files)).text
    families = set(re.findall(r"^# TYPE (codeq_\w+) ", shown, re.MULTILINE))
    documented = re.findall(r"^\| `(codeq_(?!raft_)\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert sorted(families) == sorted(documented)
