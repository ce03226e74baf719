"""Whatever a handler returns or raises, alone or in a batch, its task is reported and the worker carries on."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import codeq
import pytest
from codeq.v1 import task_pb2
from codeq.worker_handlers import Handler
from scripted_server import ScriptedServer, Work, answer, delivery, settled, welcome_worker
from waiting import eventually
from worker_runs import running

COMPLETED, FAILED = task_pb2.OUTCOME_KIND_COMPLETED, task_pb2.OUTCOME_KIND_FAILED
NACK, ABANDON = task_pb2.OUTCOME_KIND_NACK, task_pb2.OUTCOME_KIND_ABANDON


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class WrongTextError(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value] # noqa: PLE0307 - wrong on purpose


class LeavingError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class OwnBaseError(BaseException):
    pass


class OwnVerdict(codeq.Nack):
    pass


class Trap(dict[str, int]):
    """Raises the given exception as soon as it is accessed."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(a=1)
        self._error = error

    def items(self) -> Any:
        raise self._error


class Masked:
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("who am I?")


class OddText(str):
    __slots__ = ()

    def __getitem__(self, key: Any) -> NoReturn:
        raise RuntimeError("no slices")

    def __str__(self) -> str:
        return self


def throw(error: BaseException | type[BaseException]) -> Any:
    raise error


def artifacts(error: BaseException) -> Iterator[codeq.NewArtifact]:
    yield codeq.NewArtifact("a", b"x")
    raise error


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def changed(verdict: Any, **values: object) -> Any:
    for name, value in values.items():
        setattr(verdict, name, value)
    return verdict


ENDINGS: dict[str, tuple[Callable[[], object], int, str]] = {
    "nothing": (lambda: None, COMPLETED, ""),
    "value": (lambda: {"a": [1]}, COMPLETED, '{"a":[1]}'),
    "completed": (lambda: codeq.Completed([1]), COMPLETED, "[1]"),
    "raw": (lambda: codeq.RawJson("null"), COMPLETED, "null"),
    "bytes": (lambda: b'{"b": 1}', COMPLETED, '{"b": 1}'),
    "half a pair": (lambda: "\ud83d", COMPLETED, '"\\ud83d"'),
    "artifacts": (lambda: codeq.Completed(1, artifacts=iter([codeq.NewArtifact("a", b"x")])), COMPLETED, "1"),
    "failed": (lambda: codeq.Failed("why"), FAILED, "why"),
    "raised failed": (lambda: throw(codeq.Failed("why")), FAILED, "why"),
    "failed with an exception": (lambda: throw(codeq.Failed(KeyError("k"))), FAILED, "KeyError: 'k'"),
    "failed with nothing": (lambda: throw(codeq.Failed(None)), FAILED, "no error was given"),
    "failed with a number": (lambda: throw(codeq.Failed(404)), FAILED, "404"),
    "failed with blanks": (lambda: throw(codeq.Failed(" \n")), FAILED, "no error was given"),
    "failed, changed later": (lambda: changed(codeq.Failed("a"), error=MuteError()), FAILED, "MuteError"),
    "failed as a class": (lambda: throw(codeq.Failed), NACK, "TypeError"),
    "nack": (lambda: throw(codeq.Nack("later")), NACK, "later"),
    "nack as a class": (lambda: throw(codeq.Nack), NACK, ""),
    "nack with an exception": (lambda: throw(codeq.Nack(ValueError("v"))), NACK, "ValueError: v"),
    "nack with nothing": (lambda: throw(codeq.Nack(None)), NACK, ""),
    "nack with a number": (lambda: throw(codeq.Nack(404)), NACK, "404"),
    "nack with bytes": (lambda: throw(codeq.Nack(b"broken \xff")), NACK, "broken �"),
    "nack with a dict": (lambda: throw(codeq.Nack({"a": 1})), NACK, "{'a': 1}"),
    "nack with a trap": (lambda: throw(codeq.Nack(MuteError())), NACK, "MuteError"),
    "nack with half a pair": (lambda: throw(codeq.Nack("a\ud83d")), NACK, "a�"),
    "nack with too much": (lambda: throw(codeq.Nack("x" * 5000)), NACK, "x" * 4095 + "…"),
    "nack with an odd text": (lambda: throw(codeq.Nack(OddText("odd"))), NACK, ""),
    "nack with no delay": (lambda: throw(codeq.Nack("a", delay="soon")), NACK, "delay"),  # type: ignore[arg-type]
    "nack with a negative delay": (lambda: throw(codeq.Nack("a", delay=-1)), NACK, "delay"),
    "own verdict": (lambda: throw(OwnVerdict("mine")), NACK, "mine"),
    "abandon": (codeq.Abandon, ABANDON, ""),
    "raised abandon": (lambda: throw(codeq.Abandon()), ABANDON, ""),
    "exception": (lambda: 1 // 0, NACK, "ZeroDivisionError: "),
    "error without a text": (lambda: throw(MuteError()), NACK, "MuteError without a text"),
    "error with a wrong text": (lambda: throw(WrongTextError()), NACK, "WrongTextError without a text"),
    "error whose text exits": (lambda: throw(LeavingError()), NACK, "LeavingError without a text"),
    "SystemExit": (lambda: throw(SystemExit(3)), NACK, "SystemExit: 3"),
    "KeyboardInterrupt": (lambda: throw(KeyboardInterrupt), NACK, "KeyboardInterrupt"),
    "GeneratorExit": (lambda: throw(GeneratorExit), NACK, "GeneratorExit"),
    "StopIteration": (lambda: throw(StopIteration(1)), NACK, ""),
    "StopAsyncIteration": (lambda: throw(StopAsyncIteration(1)), NACK, ""),
    "CancelledError": (lambda: throw(asyncio.CancelledError()), NACK, "CancelledError"),
    "group": (lambda: throw(ExceptionGroup("many", [ValueError("a")])), NACK, "ExceptionGroup: many"),
    "base exception": (lambda: throw(OwnBaseError("base")), NACK, "OwnBaseError: base"),
    "MemoryError": (lambda: throw(MemoryError()), NACK, "MemoryError"),
    "error of the SDK": (lambda: throw(codeq.TaskNotFound("gone")), NACK, "TASK_NOT_FOUND"),
    "artifacts that raise": (lambda: codeq.Completed(1, artifacts=artifacts(OSError("disk"))), NACK, "OSError: disk"),
    "artifacts that exit": (lambda: codeq.Completed(1, artifacts=artifacts(SystemExit(2))), NACK, "SystemExit: 2"),
    "artifacts that fail": (lambda: codeq.Completed(1, artifacts=artifacts(codeq.Failed("f"))), NACK, "Failed: f"),
    "no artifacts": (lambda: codeq.Completed(1, artifacts=5), NACK, "TypeError"),  # type: ignore[arg-type]
    "odd artifacts": (lambda: codeq.Failed("f", [object()]), NACK, "artifacts[0]"),  # type: ignore[list-item]
    "object": (object, NACK, "result is not JSON"),
    "class": (lambda: codeq.Failed, NACK, "result is not JSON"),
    "not a number": (lambda: float("nan"), NACK, "result is not JSON"),
    "long number": (lambda: 10**5000, NACK, "result is not JSON"),
    "loop": (endless, NACK, "result is not JSON"),
    "too large": (lambda: "x" * (1 << 20), NACK, "result has"),
    "trap": (lambda: Trap(LookupError("peeped")), NACK, "LookupError: peeped"),
    "trap that exits": (lambda: Trap(SystemExit(1)), NACK, "SystemExit: 1"),
    "masked": (Masked, NACK, "RuntimeError"),
}


def sync_handler(ending: Callable[[], object]) -> Handler:
    return lambda task: ending() if task.payload else "well"


def async_handler(ending: Callable[[], object]) -> Handler:
    async def handler(task: codeq.Task) -> object:
        return ending() if task.payload else "well"

    return handler


async def outcomes_of(handler: Handler, *batch: bytes) -> list[task_pb2.Outcome]:
    """Delivers tasks with these payloads at once and one more after they end; returns the outcomes in order."""
    got: dict[str, task_pb2.Outcome] = {}

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        response = delivery(*(str(number) for number in range(len(batch))))
        for task, payload in zip(response.tasks, batch, strict=True):
            task.payload = payload
        await stream.write(response)
        while len(got) < len(batch):
            request = await stream.read()
            got.update((outcome.task_id, outcome) for outcome in request.outcomes)
            await stream.write(settled(len(request.outcomes)))
        await stream.write(delivery("after", payload=b"0"))
        await answer(stream)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=len(batch))
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled == len(batch) + 1)
    return [got[str(number)] for number in range(len(batch))]


@pytest.mark.parametrize("size", [1, 3], ids=["alone", "batch"])
@pytest.mark.parametrize("make", [sync_handler, async_handler], ids=["sync", "async"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_outcome_of_every_handler_is_reported(ending: str, make: Callable[..., Handler], size: int) -> None:
    end, kind, text = ENDINGS[ending]
    batch = [b"0"] * size
    batch[size // 2] = b"1"
    got = await outcomes_of(make(end), *batch)
    mine = got.pop(size // 2)
    assert mine.kind == kind
    assert text in (mine.result.decode() if kind == COMPLETED else mine.error)
    assert [(outcome.kind, outcome.result) for outcome in got] == [(COMPLETED, b'"well"')] * (size - 1)


class RaisingFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - the signature is logging's
        raise RuntimeError("no line passes")


@pytest.mark.parametrize("make", [sync_handler, async_handler], ids=["sync", "async"])
async def test_failing_logging_filter_loses_a_log_line_but_not_the_task(make: Callable[..., Handler]) -> None:
    logger, broken = logging.getLogger("codeq"), RaisingFilter()
    logger.addFilter(broken)
    try:
        [outcome] = await outcomes_of(make(lambda: 1 // 0), b"1")
    finally:
        logger.removeFilter(broken)
    assert outcome.kind == NACK


def _called(inner: Handler, task: codeq.Task) -> object:
    return inner(task)


async def test_coroutine_returned_by_a_sync_handler_is_awaited() -> None:
    inner = async_handler(lambda: "from a coroutine")
    [outcome] = await outcomes_of(functools.partial(_called, inner), b"1")
    assert (outcome.kind, outcome.result) == (COMPLETED, b'"from a coroutine"')


async def test_task_is_reported_if_the_programs_task_factory_rejects_its_coroutine() -> None:
    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        if getattr(coro, "__name__", "") == "_await":
            raise RuntimeError("no tasks today")
        return asyncio.Task(coro, loop=loop, **options)

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await answer(stream)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, async_handler(lambda: None)):
            asyncio.get_running_loop().set_task_factory(factory)
            await eventually(lambda: worker.stats.settled == 1)
            asyncio.get_running_loop().set_task_factory(None)


async def no_argument() -> None: ...


def two_arguments(task: codeq.Task, more: object) -> None: ...


def yielding(task: codeq.Task) -> Iterator[int]:
    yield 1


async def yielding_async(task: codeq.Task) -> Any:
    yield 1


@pytest.mark.parametrize("handler", [no_argument, two_arguments, yielding, yielding_async, lambda: None, 5, "name"])
async def test_handler_that_does_not_accept_a_task_is_rejected_at_once(handler: Any) -> None:
    with pytest.raises(TypeError, match="handler"):
        codeq.Worker().task("X")(handler)
    with pytest.raises(TypeError, match="handler"):
        await codeq.AsyncWorker("127.0.0.1:1").run(handler)


def test_decorator_without_a_command_raises_an_error_with_its_usage() -> None:
    with pytest.raises(TypeError, match=r'@worker\.task\("COMMAND"\)'):
        codeq.Worker().task(sync_handler(lambda: None))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a command"):
        codeq.Worker().task("")
