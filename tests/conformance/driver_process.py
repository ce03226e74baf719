"""A driver as a process: requests go to its stdin as lines of JSON, replies and events come from its stdout."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

EXIT_SECONDS_MAX: Final = 30.0
REPLY_SECONDS_MAX: Final = 60.0
LOG_TAIL_CHARS: Final = 4000

sys.set_int_max_str_digits(0)  # payloads have numbers of any length


class Refused(Exception):  # noqa: N818 - what it is
    """The driver replied with an error.

    Attributes:
        error: The error as JSON.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(error))
        self.error = error


class DriverEnded(Exception):  # noqa: N818 - what happened
    """The process ended, or did not reply."""


class DriverProcess:
    """A running driver. Thread-safe.

    Attributes:
        name: Name of the driver.
        events: Events so far; each has `at`, the seconds of a monotonic clock at which it came.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        """Starts the process.

        Args:
            name: Name of the driver.
            command: Program and arguments.
            env: All of its environment variables.
            log: File for its stderr.
        """
        self.name = name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
            )
        self.events: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)
        self._waiting: dict[int, concurrent.futures.Future[Any]] = {}
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What the process wrote to stderr."""
        return self._log.read_text(errors="replace")

    def begin(self, op: str, args: Mapping[str, Any]) -> concurrent.futures.Future[Any]:
        """Sends a request; the future has the reply, or Refused."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        line = json.dumps({"op": op, "args": args})
        with self._changed:
            number = next(self._numbers)
            self._waiting[number] = future
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(f'{{"id": {number}, {line[1:]}\n'.encode())
                self._process.stdin.flush()
            except OSError:
                self._waiting.pop(number, None)
                future.set_exception(DriverEnded(f"the {self.name} driver has ended\n{self.log[-LOG_TAIL_CHARS:]}"))
        return future

    def call(self, op: str, args: Mapping[str, Any], seconds: float = REPLY_SECONDS_MAX) -> Any:
        """Sends a request and returns the reply.

        Raises:
            Refused: The reply is an error.
            DriverEnded: There was no reply in time.
        """
        return self.reply(self.begin(op, args), op, seconds)

    def reply(self, future: concurrent.futures.Future[Any], op: str, seconds: float = REPLY_SECONDS_MAX) -> Any:
        """Waits for the reply to a request; raises as `call` does."""
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            tail = self.log[-LOG_TAIL_CHARS:]
            raise DriverEnded(f"{self.name}: no reply to {op} within {seconds:g} s\n{tail}") from None

    def wait_event(self, condition: Callable[[dict[str, Any]], bool], seconds: float, first: int = 0) -> dict[str, Any]:
        """Returns the first event that meets a condition, waiting for it.

        Args:
            condition: What it must meet.
            seconds: How long to wait.
            first: Number of events to leave out.

        Raises:
            TimeoutError: None came in time.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                while first < len(self.events):
                    if condition(self.events[first]):
                        return self.events[first]
                    first += 1
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise TimeoutError

    def close(self) -> int | None:
        """Ends the process by the end of its stdin, or kills it; returns its exit code, None if it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended already
            self._process.stdin.close()
        try:
            code: int | None = self._process.wait(EXIT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            code = None
            self._process.kill()
            self._process.wait()
        self._reader.join(EXIT_SECONDS_MAX)
        self._process.stdout.close()
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                message = {"event": "malformed", "line": line.decode(errors="replace")}
            with self._changed:
                if "event" in message:
                    self.events.append(message | {"at": time.monotonic()})
                    self._changed.notify_all()
                    continue
                future = self._waiting.pop(message.get("id"), None)
            if future is None:
                continue
            if "error" in message:
                future.set_exception(Refused(message["error"]))
            else:
                future.set_result(message.get("ok"))
        with self._changed:
            left, self._waiting = list(self._waiting.values()), {}
            self._changed.notify_all()
        for future in left:
            future.set_exception(DriverEnded(f"the {self.name} driver ended\n{self.log[-LOG_TAIL_CHARS:]}"))


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a driver: that of the tests without settings of the SDKs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CODEQ_")} | more
