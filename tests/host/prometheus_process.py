"""A real Prometheus that scrapes the servers of a test every second, with alerts that fire at once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from server_process import LOOPBACK, reserved_port

ALERTS = Path(__file__).resolve().parents[2] / "helm" / "codeq" / "files" / "alerts.yaml"
SECONDS_MAX = 60.0
POLL_SECONDS = 0.1


def hasty_rules(path: Path) -> Path:
    """Writes the alerts to a file, with `for` shortened to a second and nothing else changed."""
    rules = yaml.safe_load(ALERTS.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
    path.write_text(yaml.safe_dump(rules))
    return path


class Prometheus:
    """One Prometheus with a store of its own.

    Args:
        directory: Where its files are kept.
        jobs: URLs of servers by job.
        ca: File with the CA of servers with https.
    """

    def __init__(self, directory: Path, jobs: Mapping[str, list[str]], ca: Path) -> None:
        directory.mkdir()
        scrapes = []
        for job, urls in jobs.items():
            scheme = httpx.URL(urls[0]).scheme
            targets = [httpx.URL(url).netloc.decode() for url in urls]
            scrapes.append({"job_name": job, "scheme": scheme, "static_configs": [{"targets": targets}]})
            if scheme == "https":
                scrapes[-1]["tls_config"] = {"ca_file": str(ca)}
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(hasty_rules(directory / "alerts.yaml"))],
            "scrape_configs": scrapes,
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._directory = directory
        self._targets = sum(map(len, jobs.values()))
        self._port = reserved_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        port = self._port.getsockname()[1]
        command = [
            *("prometheus", f"--config.file={self._directory / 'prometheus.yml'}"),
            *(f"--storage.tsdb.path={self._directory / 'data'}", f"--web.listen-address={LOOPBACK}:{port}"),
        ]
        with (self._directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._http = httpx.Client(base_url=f"http://{LOOPBACK}:{port}")
        try:
            self.eventually(self._is_ready, "Prometheus is ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._http.close()
        self._port.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Returns the samples of an expression."""
        reply = self._http.post("/api/v1/query", data={"query": expression})
        assert reply.status_code == 200, f"{expression}: {reply.text}"
        result: list[dict[str, Any]] = reply.json()["data"]["result"]
        return result

    def firing(self) -> set[str]:
        """Returns the names of the alerts that fire; the texts of all must be complete."""
        alerts = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        texts = [alert["annotations"]["summary"] for alert in alerts]
        assert [text for text in texts if "<error" in text or "<no value>" in text] == []
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def scrapes(self) -> list[str]:
        """Returns the health of each target, and what went wrong with its last scrape."""
        targets = self._http.get("/api/v1/targets").json()["data"]["activeTargets"]
        return [f"{each['scrapeUrl']}: {each['health']} {each['lastError']}" for each in targets]

    def scraped(self) -> None:
        """Waits until every target has been scraped twice from now on."""
        now = time.time()
        scraped = f"timestamp(up) > {now + 1}"
        self.eventually(lambda: len(self.query(scraped)) == self._targets, "every target was scraped")

    def eventually(self, condition: Callable[[], bool], what: str) -> None:
        """Waits until a condition holds."""
        deadline = time.monotonic() + SECONDS_MAX
        while not condition():
            assert time.monotonic() < deadline, f"not in time: {what}\n{self._log()}"
            time.sleep(POLL_SECONDS)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log()
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _log(self) -> str:
        return (self._directory / "prometheus.log").read_text(errors="replace")[-3000:]
