"""Subscriptions amid random work: what is in memory is what the rows say, through writes, kills and reopening."""

from __future__ import annotations

from abc import abstractmethod

from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys, subscriptions
from codeq_server.core.clock import Now
from codeq_server.core.shard import Shard
from codeq_server.core.subscriptions import Wanted
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

EVERYTHING = 1 << 30


class Subscribing(RuleBasedStateMachine):
    """Makes, renews and ends subscriptions."""

    shard: Shard

    def __init__(self) -> None:
        super().__init__()
        self._made = 0

    @property
    @abstractmethod
    def now(self) -> Now: ...

    @rule(
        tenant=st.sampled_from(["acme", "globex"]),
        commands=st.sampled_from([(), ("email",), ("email", "sms")]),
        ttl_ms=st.sampled_from([500, 5_000, 50_000]),
    )
    def subscribe(self, tenant: str, commands: tuple[str, ...], ttl_ms: int) -> None:
        self._made += 1
        self.compare()
        wanted = Wanted("http://hooks.example/", commands, rows_pb2.SIGNAL_MODE_HASH, "", 0, ttl_ms)
        made = subscriptions.subscribe(self.shard, f"{self._made:032x}", tenant, "w", wanted, self.now)
        assert made.expires_ms == self.now.wall_ms + ttl_ms
        self.compare()

    @rule(choice=st.integers(0, 9), ends=st.booleans())
    def renew_or_unsubscribe(self, choice: int, ends: bool) -> None:
        live = [each for there in self.shard.subscriptions.by_tenant.values() for each in there.values()]
        if live:
            chosen = live[choice % len(live)]
            if ends:
                subscriptions.unsubscribe(self.shard, chosen)
            else:
                subscriptions.renew(self.shard, chosen, 0, self.now)
        self.compare()

    def compare(self) -> None:
        """Checks that exactly the subscriptions in memory have rows, with the same contents."""
        shard = self.shard
        start, end = keys.table_rows(keys.SUBSCRIPTIONS)
        found = {key for key, _ in shard.stored.scan(start, end, EVERYTHING)}
        for batch in (*shard.in_flight, shard.batch):
            found |= {key for key in batch.rows if start <= key < end}
        rows = {key: value for key in found if (value := shard.get(key)) is not None}
        live = [each for there in shard.subscriptions.by_tenant.values() for each in there.values()]
        assert rows == {each.key: each.row() for each in live}
        assert shard.subscriptions.count == len(live)
