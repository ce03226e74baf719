"""Runs one case against one driver: starts what it needs, executes its steps, compares, and cleans up."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import hosting
from case_files import Case, calls_of
from case_world import CLUSTER_TOKEN, SameToken, Tokens, World
from contract import UNARY, route
from cutting_proxy import CuttingProxy
from driver_process import DriverEnded, DriverProcess, Refused
from matching import filled, looked_up, mismatch
from scripted_peer import ScriptedPeers
from server_process import ServerProcess

POLL_SECONDS: Final = 0.05
EVENT_SECONDS: Final = 30.0
"""How long a step waits for an event unless it says `within`."""

OP_SECONDS: Final = 45.0
_KINDS: Final = ("producer", "client", "worker")


class CaseFailed(AssertionError):  # noqa: N818 - what happened
    """A step did not go as expected."""


class Times(Mapping[str, str]):
    """Times relative to the start of a case: `${now.+60}` is a minute later."""

    def __init__(self) -> None:
        self._start = datetime.now(UTC)

    def __getitem__(self, name: str) -> str:
        at = self._start + timedelta(seconds=float(name))
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class CaseRun:
    """One run of a case.

    Attributes:
        driver: The driver's process.
        server: The real server, if the case has one.
        peers: Its scripted servers.
        proxy: Its proxy, if it has one.
        world: What it shares with others.
        variables: What steps have kept, and what the runner knows.
    """

    def __init__(self, world: World, case: Case, driver_name: str) -> None:
        self.world, self.case = world, case
        self.driver_name = driver_name
        self.driver: DriverProcess
        self.server: ServerProcess | None = None
        self.peers: ScriptedPeers | None = None
        self.proxy: CuttingProxy | None = None
        self.first_event = 0
        self._suffix = f"{os.getpid() % 100_000}-{world.number()}"
        self._opened: dict[tuple[str, str], None] = {}
        self._later: dict[str, tuple[str, concurrent.futures.Future[Any], float]] = {}
        self.variables: dict[str, Any] = {"now": Times(), "unique": self._suffix}

    def run(self) -> None:
        """Runs the case.

        Raises:
            CaseFailed: A step did not go as expected.
            DriverMissing: There is no driver.
        """
        is_shared = self.case.process is None
        with contextlib.ExitStack() as stack:
            self._prepare(stack)
            if is_shared:
                self.driver = self.world.driver(self.driver_name)
            else:
                self.driver = self.world.new_driver(self.driver_name, (self.case.process or {}).get("env"))
                stack.callback(self.driver.close)
            self.first_event = len(self.driver.events)
            is_clean = False
            try:
                for number, step in enumerate(self.case.steps, 1):
                    self._step(number, step)
                is_clean = True
            finally:
                if is_shared and not (self._close_opened() and is_clean):
                    self.world.forget(self.driver)

    def of_case(self, name: str) -> str:
        """Returns the name that the driver uses for a producer, client or worker of this case."""
        return f"{name}-{self._suffix}"

    def open(self, kind: str, name: str, verb: str, arguments: Mapping[str, Any]) -> str:
        """Opens a producer or client, or runs a worker, which the end of the case closes; returns its full name."""
        full = self.of_case(name)
        self._opened[kind, full] = None
        self.driver.call(f"{kind}.{verb}", {"name": full, **arguments})
        return full

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        case, known = self.case, self.variables
        tenant = f"t{self._suffix}"
        known["tenant"], known["token"] = tenant, Tokens(self.world.issuer, tenant)
        addresses: dict[str, list[str]] = {}
        if case.server == "cluster":
            nodes = list(self.world.cluster().addresses("grpc_addr").values())
            addresses = {"producer": nodes, "worker": nodes}
            known |= {"tenant": "acme", "token": SameToken(CLUSTER_TOKEN), "nodes": nodes}
        elif case.server != "none":
            self.server = self._real_server(stack)
            addresses = {"producer": [self.server.producer_addr], "worker": [self.server.worker_addr]}
            known |= {"http": self.server.http_url, "ca": self.world.authority}
        if case.peers:
            self.peers = stack.enter_context(ScriptedPeers())
            known["peer"] = self.peers.start(case.peers)
            self.peers.follow(filled(dict(case.peers), known))
            if not addresses:
                first = [next(iter(known["peer"].values()))]
                addresses = {"producer": first, "worker": first}
        if case.proxy is not None:
            cuts = int(case.proxy["cuts"])
            self.proxy = stack.enter_context(CuttingProxy(addresses["producer"][0], case.proxy["cutMs"] / 1000, cuts))
            known["direct"] = addresses["producer"]
            addresses = {"producer": [self.proxy.address], "worker": [self.proxy.address]}
        known["addresses"] = addresses

    def _real_server(self, stack: contextlib.ExitStack) -> ServerProcess:
        if self.case.server != "own":
            return self.world.server(self.case.server)
        return stack.enter_context(self.world.new_server("own"))

    def _step(self, number: int, step: Mapping[str, Any]) -> None:
        label = f"{self.case.name}, step {number}"
        try:
            if "sweep" in step:
                for name, request in calls_of(step):
                    self._checked(step | {"do": name, "with": request}, f"{label}, {name}")
            else:
                self._checked(step, label)
        except KeyError as error:
            raise CaseFailed(f"{label}: no variable {error}") from None

    def _checked(self, step: Mapping[str, Any], label: str) -> None:
        """Runs a step, again and again if it has time, and checks how it ends."""
        deadline = time.monotonic() + (step.get("within", 0) if "see" not in step else 0)
        while True:
            begun = time.monotonic()
            trouble = self._tried(step, begun)
            if trouble is None:
                return
            if time.monotonic() >= deadline:
                shown = next(f"{kind} {step[kind]}" for kind in ("do", "join", "see", "unseen", "host") if kind in step)
                raise CaseFailed(f"{label} ({shown}): {trouble}")
            time.sleep(POLL_SECONDS)

    def _tried(self, step: Mapping[str, Any], begun: float) -> str | None:
        """Runs a step once; returns what is wrong."""
        reply, error = None, None
        try:
            reply, begun = self._executed(step, begun)
        except Refused as refused:
            error = refused.error
        except TimeoutError:
            return f"no such event; the last ones: {self.driver.events[self.first_event :][-8:]}"
        except DriverEnded as ended:
            return str(ended)
        seconds = time.monotonic() - begun
        trouble = self._outcome(step, reply, error)
        if trouble is None and "takes" in step:
            trouble = mismatch(step["takes"], seconds, "seconds")
        if trouble is None:
            for name, path in step.get("keep", {}).items():
                self.variables[name] = looked_up({"": reply} if path == "" else reply, path)
        return trouble

    def _outcome(self, step: Mapping[str, Any], reply: Any, error: Mapping[str, Any] | None) -> str | None:
        if "fails" in step:
            expected = filled(step["fails"], self.variables)
            if error is None:
                return f"expected {expected}, but it succeeded with {reply!r:.300}"
            return mismatch({"reason": expected} if isinstance(expected, str) else expected, error, "error")
        if error is not None:
            return f"failed with {error}"
        return mismatch(filled(step["gives"], self.variables), reply) if "gives" in step else None

    def _executed(self, step: Mapping[str, Any], begun: float) -> tuple[Any, float]:
        """Runs a step; returns its reply, and since when its time counts."""
        if "see" in step:
            return self._seen(filled(step["see"], self.variables), step.get("within", EVENT_SECONDS)), begun
        if "unseen" in step:
            with contextlib.suppress(TimeoutError):
                event = self._seen(filled(step["unseen"], self.variables), 0)
                raise Refused({"reason": "SEEN", "message": str(event)})
            return {}, begun
        if "join" in step:
            op, future, begun = self._later.pop(step["join"])
            return self._shown(op, self.driver.reply(future, op, OP_SECONDS)), begun
        if "host" in step:
            arguments = filled(step.get("with", {}), self.variables)
            return getattr(hosting, step["host"].replace(".", "_"))(self, **arguments), begun
        return self._done(step, begun)

    def _done(self, step: Mapping[str, Any], begun: float) -> tuple[Any, float]:
        op = str(step["do"])
        arguments = dict(filled(step.get("with", {}), self.variables))
        options = dict(filled(step.get("options", {}), self.variables))
        kind = "client" if op in UNARY else op.partition(".")[0]
        if kind in _KINDS:
            name = "c" if op in UNARY else arguments.pop("name", kind[0])
            full = self._opened_name(kind, op, name, step.get("token", "all"), options)
            arguments["" if op in UNARY else "name"] = full
            if op == "worker.run":
                arguments = self._worker(step.get("token", "all"), options) | arguments
                self._opened["worker", arguments["name"]] = None
        sent = op
        if op in UNARY:  # apart from the client's name, as some requests have a field of that name, too
            sent = f"client.{op}"
            arguments = {"name": arguments.pop(""), "request": arguments}
        future = self.driver.begin(sent, arguments)
        if "later" in step:
            self._later[step["later"]] = (op, future, begun)
            return {}, begun
        return self._shown(op, self.driver.reply(future, sent, OP_SECONDS)), begun

    def _opened_name(self, kind: str, op: str, name: str, token: str, options: Mapping[str, Any]) -> str:
        """Returns the name of a producer or client with these options, which is opened if need be."""
        if kind == "worker" or op in ("producer.close", "client.close"):
            return self.of_case(name)
        told = "".join(f"-{key}-{value}" for key, value in sorted(options.items()) if key != "tokens")
        full = self.of_case(f"{name}-{token}{told}"[:120]) if kind == "client" else self.of_case(name)
        if (kind, full) not in self._opened:
            given = {"name": full, "addresses": self._addresses("producer")} | dict(options)
            if "tokens" not in options:
                given["token"] = self.variables["token"][token]
            self.driver.call(f"{kind}.open", given)
            self._opened[kind, full] = None
        return full

    def _worker(self, token: str, options: Mapping[str, Any]) -> dict[str, Any]:
        given = {"addresses": self._addresses("worker")} | dict(options)
        if "tokens" not in options:
            given["token"] = self.variables["token"][token]
        return given

    def _addresses(self, kind: str) -> Sequence[str]:
        if self.driver_name == "rest":
            return [self.variables["http"]]
        addresses: Sequence[str] = self.variables["addresses"][kind]
        return addresses

    def _shown(self, op: str, reply: Any) -> Any:
        """Returns a reply in the form of the RPC's response, whatever part of it the driver shows."""
        if op in UNARY and isinstance(reply, dict):
            whole = route(op).response
            if whole and whole not in reply:
                return {whole: reply} if reply else {}
        return reply

    def _seen(self, expected: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        wanted = self.named(expected)
        return self.driver.wait_event(lambda event: mismatch(wanted, event) is None, seconds, self.first_event)

    def named(self, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the expectation of an event of this case: its worker, `w` by default, has the driver's name."""
        return {**expected, "worker": self.of_case(expected.get("worker", "w"))}

    def _close_opened(self) -> bool:
        """Closes what the case has opened; returns whether that worked."""
        is_clean = True
        stops = [self.driver.begin("worker.stop", {"name": name}) for kind, name in self._opened if kind == "worker"]
        stops += [self.driver.begin("worker.stop", {"name": name}) for kind, name in self._opened if kind == "worker"]
        for kind, name in self._opened:
            if kind != "worker":
                stops.append(self.driver.begin(f"{kind}.close", {"name": name}))
        for future in stops:
            try:
                self.driver.reply(future, "close", OP_SECONDS)
            except Refused:
                pass  # it has ended already
            except DriverEnded:
                is_clean = False
        return is_clean
