"""Payloads and results of the program's own types: dataclasses, pydantic models, msgspec structs."""

from __future__ import annotations

import enum
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Optional
from uuid import UUID

import codeq
import msgspec
import pydantic
import pytest
from codeq.payloads import encode
from codeq.typed_values import Reader
from scripted_server import ScriptedServer, Work, answer, delivery, has_outcomes, settled, welcome_worker
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually
from worker_runs import running

ROOT = Path(__file__).resolve().parents[2]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


Name = NewType("Name", str)


@dataclass
class Item:
    name: Name
    price: Decimal
    tags: list[str] = field(default_factory=list)


@dataclass
class Order:
    id: UUID
    items: list[Item]
    at: datetime
    on: date
    color: Color
    kind: Literal["new", "used"]
    weight: float
    count: int
    paid: bool
    note: Optional[str] = None  # noqa: UP045 - both spellings are accepted
    by_name: dict[str, Item | None] = field(default_factory=dict)
    pair: tuple[int, str] = (1, "x")
    parent: Order | None = None
    limited: Annotated[int, "small"] = 0
    anything: Any = None
    unique: frozenset[int] = frozenset()


class Model(pydantic.BaseModel):
    id: int
    tags: list[str] = []
    at: datetime | None = None


class Struct(msgspec.Struct):
    id: int
    tags: list[str] = []
    at: datetime | None = None


ORDER = Order(
    id=UUID("6f2f4fd4-47d8-4b2c-8a3c-6b1f8d4b9a11"),
    items=[Item(Name("a"), Decimal("1.10"), ["x", "y"])],
    at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    on=date(2026, 1, 31),
    color=Color.BLUE,
    kind="used",
    weight=2.0,
    count=3,
    paid=True,
    by_name={"b": None, "a": Item(Name("a"), Decimal(7))},
    parent=None,
    unique=frozenset({4}),
)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (ORDER, Order),
        (Model(id=1, tags=["x"], at=datetime(2026, 1, 1, tzinfo=UTC)), Model),
        (Struct(id=1, tags=["x"], at=datetime(2026, 1, 1, tzinfo=UTC)), Struct),
        ([Model(id=1), Model(id=2)], list[Model]),
        ({"a": Struct(id=1)}, dict[str, Struct]),
        ([ORDER, None], list[Order | None]),
        (5, int),
    ],
)
def test_values_come_back_as_they_were_sent(value: object, kind: type) -> None:
    assert Reader(kind).read(encode(value, "payload"), "payload") == value


@pytest.mark.parametrize(
    ("kind", "data", "path"),
    [
        (Item, b'{"name":"a"}', "payload.price"),
        (Item, b'{"name":"a","price":"x"}', "payload.price"),
        (Item, b'{"name":1,"price":"1"}', "payload.name"),
        (Item, b'{"name":"a","price":"1","tags":["x",2]}', "payload.tags[1]"),
        (list[Item], b'[{"name":"a","price":"1"},3]', "payload[1]"),
        (dict[str, int], b'{"a":true}', "payload.a"),
        (int, b"1.5", "payload"),
        (int, b"", "payload"),
        (Color, b'"green"', "payload"),
        (Literal["a", 1], b"true", "payload"),
        (tuple[int, int], b"[1]", "payload"),
        (Item | None, b'{"name":"a","price":"1","tags":5}', "payload.tags"),
        (Item, b"not JSON", "payload"),
        (Model, b'{"id":"x"}', "payload.id"),
        (Model, b'{"id":1,"tags":["a",2]}', "payload.tags[1]"),
        (list[Model], b'[{"id":1},{}]', "payload[1].id"),
        (Struct, b'{"id":"x"}', "payload.id"),
        (Struct, b'{"id":1,"tags":["a",2]}', "payload.tags[1]"),
        (Struct, b"{", "payload"),
        (list[Struct], b'[{"id":1},{}]', "payload[1]"),
    ],
)
def test_error_names_the_place_that_does_not_fit(kind: type, data: bytes, path: str) -> None:
    with pytest.raises(codeq.InvalidField) as caught:
        Reader(kind).read(data, "payload")
    [violation] = caught.value.violations
    assert violation.field == path
    assert str(caught.value).startswith(f"INVALID_FIELD: {path}: ")


@pytest.mark.parametrize("kind", [Callable[[], int], dict[int, str], complex, list[complex]])
def test_types_without_a_form_in_json_are_refused_at_registration(kind: type) -> None:
    with pytest.raises(TypeError):
        codeq.Worker().task("X", type=kind)(lambda _: None)


def test_naive_times_inside_dataclasses_are_refused() -> None:
    @dataclass
    class At:
        at: datetime

    with pytest.raises(codeq.InvalidField, match="time zone"):
        encode(At(datetime(2026, 1, 1)), "payload")  # noqa: DTZ001 - what is refused


def typed(task: codeq.Task[Order]) -> object:
    assert isinstance(task.payload, Order)
    assert task.payload is task.payload
    return task.payload.items[0]


async def typed_async(task: codeq.Task[Model]) -> object:
    return Struct(id=task.payload.id + 1)


async def test_handlers_get_values_of_their_type_and_return_them(shared_server: ServerProcess) -> None:
    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN)
    worker.task("typed-order")(typed)
    worker.task("typed-model")(typed_async)
    worker.task("typed-given", type=Item)(lambda task: str(task.payload.price))
    async with (
        running(worker, lambda _: None, "typed-rest"),
        codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
        codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client,
    ):
        order = await producer.create_and_wait("typed-order", ORDER)
        assert order.result_as(Item) == ORDER.items[0]
        model = await producer.create_and_wait("typed-model", Model(id=4))
        assert model.result_as(Struct) == Struct(id=5)
        item = await producer.create_and_wait("typed-given", {"name": "a", "price": "2"})
        assert item.result == "2"
        invalid = await producer.create_and_wait("typed-order", {"id": "x"})
        assert invalid.status == codeq.TaskStatus.FAILED
        assert invalid.error == "payload is invalid: payload.id: must be a UUID"
        assert (await client.get(invalid.task_id)).attempts == 1
        task = await client.create("typed-claimed", ORDER)
        assert (await client.get(task.id)).payload_as(Order) == ORDER


async def test_invalid_payload_fails_the_task_without_calling_the_handler() -> None:
    got = []

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a", payload=b'{"id":"x"}'))
        got.extend((await stream.read_until(has_outcomes)).outcomes)
        await stream.write(settled(1))
        await answer(stream)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        worker.task("X")(typed_async)
        async with running(worker, lambda _: None, "Y"):
            await eventually(lambda: worker.stats.settled == 1)
    assert got[0].error.startswith("payload is invalid: payload.id: ")


def test_annotation_that_cannot_be_resolved_is_refused() -> None:
    @dataclass
    class Local:
        id: int

    def handler(task: codeq.Task[Local]) -> None:
        pass

    with pytest.raises(TypeError, match="pass type"):
        codeq.Worker().task("X")(handler)
    codeq.Worker().task("X", type=Local)(handler)


SAMPLE = """
from dataclasses import dataclass
import codeq

@dataclass
class Order:
    id: int

worker = codeq.Worker()

@worker.task("A", limit=2, timeout=3.0)
def plain(task: codeq.Task) -> object:
    reveal_type(task.payload)
    return None

@worker.task("B")
async def typed(task: codeq.Task[Order]) -> int:
    reveal_type(task.payload)
    return task.payload.id

@worker.middleware
def around(task: codeq.Task, call_next: codeq.Handler) -> object:
    return call_next(task)

def create(producer: codeq.Producer, client: codeq.Client) -> None:
    reveal_type(producer.create("A", Order(1)))
    reveal_type(producer.create_future("A", Order(1), delay=3))
    for result in producer.create_all(codeq.NewTask("A", n) for n in range(3)):
        reveal_type(result)
    reveal_type(producer.create_and_wait("A").result_as(Order))
    for task in client.iter_tasks("A"):
        reveal_type(task.payload_as(Order))

async def create_async(producer: codeq.AsyncProducer) -> None:
    async for result in producer.create_all([codeq.NewTask("A")]):
        reveal_type(result)

plain("not a task")
"""

REVEALED = [
    "object",
    "Order",
    "str",
    "concurrent.futures._base.Future[str]",
    "str | codeq.errors.CodeqError",
    "Order",
    "Order",
    "str | codeq.errors.CodeqError",
]


@pytest.mark.timeout(300)
def test_programs_are_typed_under_mypy_strict(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(tmp_path), str(sample)],
        env={"MYPYPATH": str(ROOT / "sdks" / "python" / "src"), "PATH": ""},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    lines = [line for line in checked.stdout.splitlines() if "sample.py" in line]
    revealed = [line.partition('type is "')[2].rstrip('"') for line in lines if "Revealed" in line]
    assert [each.removeprefix("sample.") for each in revealed] == REVEALED, checked.stdout + checked.stderr
    assert ["arg-type" in line for line in lines if ": error:" in line] == [True], checked.stdout
