"""Reads the cases from `cases/*.yaml` and checks their form.

A file has `about`, a sentence, and `cases`, a list. A case has a unique `name`, `says` (what it proves), `steps`, and:

| key | meaning | default |
|---|---|---|
| `server` | which server it needs: see case_world.SERVERS; `cluster`; `none` | `main` |
| `peers` | scripted servers by name, each with its script (scripted_peer.py) | none |
| `proxy` | `{cutMs, cuts}`: a proxy before the server that cuts its connections | none |
| `process` | `{env}`: the case gets a driver process of its own | shared |
| `drivers` | names of drivers | all that have its operations: rest only for unary calls |
| `why` | why it does not run on some driver; required with `drivers` | none |
| `seconds` | longest time | 30 |

A step is one of these, and may have `gives` (expected reply) or `fails` (expected error: its reason, or its fields),
`keep` (variables from the reply), `within` (seconds in which to try again) and `takes` (expected seconds):

| step | meaning |
|---|---|
| `do: NAME`, `with: {…}` | an operation of the driver; a capital begins the name of a unary RPC |
| `join: NAME` | waits for the reply of a step with `later` |
| `see: {…}` | waits for an event of the driver |
| `unseen: {…}` | no such event has come |
| `host: NAME`, `with: {…}` | an operation of the runner: see hosting.py |
| `sweep: [RPC, …]` or `sweep: all` | calls each RPC with its request of requests.yaml |

Of `do` and `sweep`, `token` names the token (tokens.yaml), and `options` has further options for opening the client. Of
`do`, `later: NAME` does not wait for the reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from contract import STREAMS, UNARY

FOLDER: Final = Path(__file__).with_name("cases")
SDKS: Final = ("python", "go", "ts")
DRIVERS: Final = (*SDKS, "rest")
SECONDS_MAX: Final = 30.0

_CASE_KEYS: Final = {
    "name",
    "says",
    "steps",
    "server",
    "peers",
    "proxy",
    "process",
    "drivers",
    "why",
    "seconds",
}
_STEP_KINDS: Final = ("do", "join", "see", "unseen", "host", "sweep")
_STEP_KEYS: Final = {*_STEP_KINDS, "with", "token", "options", "gives", "fails", "keep", "within", "takes", "later"}
_STREAM_OF: Final = {"producer": "Produce", "worker": "Work"}


@dataclass(frozen=True, slots=True)
class Case:
    """One case; see the module's text for its attributes."""

    name: str
    subject: str
    says: str
    steps: tuple[Mapping[str, Any], ...]
    server: str = "main"
    peers: Mapping[str, Any] = field(default_factory=dict)
    proxy: Mapping[str, Any] | None = None
    process: Mapping[str, Any] | None = None
    drivers: tuple[str, ...] = SDKS
    why: str = ""
    seconds: float = SECONDS_MAX

    @property
    def is_real(self) -> bool:
        """Whether it runs against real servers only."""
        return not self.peers


@cache
def cases() -> tuple[Case, ...]:
    """Returns all cases, sorted by file and in their order there.

    Raises:
        ValueError: A case is malformed, or two have the same name.
    """
    found: list[Case] = []
    for path in sorted(FOLDER.glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        if set(content) != {"about", "cases"}:
            raise ValueError(f"{path.name}: has about and cases, and nothing else")
        found += [_case(path.stem, each) for each in content["cases"]]
    names = [case.name for case in found]
    if len(set(names)) < len(names):
        raise ValueError(f"named twice: {sorted({name for name in names if names.count(name) > 1})}")
    return tuple(found)


@cache
def requests() -> Mapping[str, Any]:
    """Returns a valid request of each unary RPC."""
    found: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("requests.yaml").read_text())
    if set(found) != set(UNARY):
        raise ValueError(f"requests.yaml: missing or unknown: {sorted(set(found) ^ set(UNARY))}")
    return found


def calls_of(step: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the RPCs that a step calls, each with its request."""
    if "sweep" in step:
        for name in UNARY if step["sweep"] == "all" else step["sweep"]:
            yield name, requests()[name] | step.get("with", {}).get(name, {})
    name = str(step.get("do", ""))
    if name in UNARY:
        yield name, step.get("with", {})
    elif (kind := name.partition(".")[0]) in _STREAM_OF and name not in ("producer.close", "worker.stop"):
        yield _STREAM_OF[kind], step.get("with", {})


def _case(subject: str, raw: Mapping[str, Any]) -> Case:
    name = raw.get("name", "?")
    if unknown := set(raw) - _CASE_KEYS:
        raise ValueError(f"case {name}: unknown {sorted(unknown)}")
    if not {"name", "says", "steps"} <= set(raw):
        raise ValueError(f"case {name}: needs name, says and steps")
    for step in raw["steps"]:
        if len([kind for kind in _STEP_KINDS if kind in step]) != 1 or set(step) - _STEP_KEYS:
            raise ValueError(f"case {name}: malformed step {step}")
        if isinstance(step.get("sweep"), list) and (unknown := set(step["sweep"]) - set(UNARY)):
            raise ValueError(f"case {name}: no such RPC: {sorted(unknown)}")
    own = {key: value for key, value in raw.items() if key in _CASE_KEYS}
    if ("drivers" in own) != ("why" in own):
        raise ValueError(f"case {name}: drivers and why go together")
    steps = tuple(own.pop("steps"))
    drivers = tuple(own.pop("drivers", _able(steps, raw)))
    return Case(subject=subject, steps=steps, drivers=drivers, **own)


def _able(steps: tuple[Mapping[str, Any], ...], raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the drivers that have the operations of a case."""
    names = [str(step["do"]) for step in steps if "do" in step]
    needs_sdk = any({"see", "unseen", "options"} & set(step) for step in steps)
    is_unary = all(name in UNARY for name in names) and not needs_sdk
    special = {"peers", "proxy", "process"} & set(raw) or raw.get("server") in ("cluster", "none")
    return DRIVERS if is_unary and not special else SDKS


assert set(_STREAM_OF.values()) == STREAMS
