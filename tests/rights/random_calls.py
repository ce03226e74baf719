"""Random calls of every RPC, made from the descriptors: most are well-formed, and many name what is tenant B's."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from b_tenant import COMMANDS, FILE, KEY, TenantB
from buf.validate import validate_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

OWN_COMMAND: Final = "of-a"
_STREAM_MESSAGES_MAX: Final = 3
_NUMBERS: Final = frozenset(
    {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64}
)


class RandomCalls:
    """Draws requests.

    Args:
        chance: Source of randomness.
        b: Tenant B.
        tokens: Tokens that a caller may put in a message.
    """

    def __init__(self, chance: random.Random, b: TenantB, tokens: Sequence[str]) -> None:
        self._chance = chance
        self._own_ids: list[str] = []
        commands = [*COMMANDS, *COMMANDS, OWN_COMMAND]
        self._values: dict[str, Callable[[], Any]] = {
            "task_id": lambda: self._pick([*b.ids, *b.ids, *b.names, *self._own_ids]),
            "task_ids": lambda: self._pick([*b.ids, *self._own_ids]),
            "command": lambda: self._pick(commands),
            "commands": lambda: self._pick(commands),
            "lease_token": lambda: self._pick([*b.leases, 1]),
            "page_token": lambda: self._pick(["", *b.page_tokens]),
            "idempotency_key": lambda: self._pick([KEY, f"key-{self._chance.random()}"]),
            "name": lambda: self._pick([FILE, "beta", f"n-{self._chance.randrange(10**9)}"]),
            "token": lambda: self._pick(["", "", *tokens]),
            "tenant": lambda: self._pick(["", "alpha", "beta"]),
            "wait_seconds": lambda: 0,
            "id": lambda: "n2",
            "raft_addr": lambda: "127.0.0.1:1",
            "url": lambda: "http://127.0.0.1:1/1",
            "secrets": lambda: "a secret of some length",
            "host": lambda: "127.0.0.1:1",
            "endpoint": lambda: self._pick(["", "http://127.0.0.1:1/1"]),
            "webhook": lambda: "http://127.0.0.1:1/1",
        }

    def learn(self, seen: str) -> None:
        """Remembers the ids of a caller's own tasks."""
        if len(self._own_ids) < 50:
            self._own_ids += [word for word in seen.replace('"', " ").split() if len(word) == 36 and word[14] == "8"]

    def requests(self, method: MethodDescriptor) -> list[Message]:
        """Returns the request of a call, or the messages of a stream."""
        if not method.client_streaming:
            return [self.message(method.input_type)]
        count = self._chance.randint(0, _STREAM_MESSAGES_MAX)
        first, *others = [self.message(method.input_type) for _ in range(1 + count)]
        hello: Any = first
        hello.hello.SetInParent()
        for other in others:
            other.ClearField("hello")
        return [first, *others]

    def message(self, descriptor: Descriptor) -> Message:
        """Returns a message of a type."""
        made = message_factory.GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if self._chance.random() < self._likely(field):
                self._fill(made, field)
        return made

    def _likely(self, field: FieldDescriptor) -> float:
        rules = _rules(field)
        if field.name == "tenant" or (field.is_repeated and not rules.repeated.min_items):
            return 0.3
        if rules.required or rules.string.min_len or field.name in self._values:
            return 0.95
        return 0.35 if field.has_presence else 0.6

    def _fill(self, made: Message, field: FieldDescriptor) -> None:
        if field.is_repeated:
            for _ in range(self._chance.randint(1, 2)):
                if field.message_type is not None:
                    getattr(made, field.name).add().CopyFrom(self.message(field.message_type))
                else:
                    getattr(made, field.name).append(self._value(field))
        elif field.message_type is None:
            setattr(made, field.name, self._value(field))
        elif field.message_type.full_name == "google.protobuf.Timestamp":
            getattr(made, field.name).seconds = self._pick([1, 1_000_000_000, 4_000_000_000])
        else:
            getattr(made, field.name).CopyFrom(self.message(field.message_type))

    def _value(self, field: FieldDescriptor) -> Any:
        if field.name == "name" and "Schedule" in field.containing_type.name:
            return f"n-{self._chance.randrange(10)}"  # never the name of another tenant, which the judge looks for
        if field.name in self._values:
            return self._values[field.name]()
        if field.enum_type is not None:
            rules = _rules(field).enum
            allowed = list(getattr(rules, "in")) or [each.number for each in field.enum_type.values]
            return self._pick([number for number in allowed if number not in rules.not_in])
        if field.type in _NUMBERS:
            rules_of = _rules(field).int32
            return self._pick([max(rules_of.gte, 0), max(rules_of.gte, 1), 2])
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return self._pick([0.0, 0.5, 1000.0])
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self._chance.random() < 0.5
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._pick([b"1", b'{"n": [1, 2]}'])
        return self._pick(list(getattr(_rules(field).string, "in")) or ["", "text"])

    def _pick(self, values: Sequence[Any]) -> Any:
        return self._chance.choice(values)


def _rules(field: FieldDescriptor) -> Any:
    options: Any = field.GetOptions().Extensions
    return options[validate_pb2.field]
