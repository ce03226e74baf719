"""Sets the limits of tasks with keys as administrators do: in the policy of a command."""

from __future__ import annotations

from codeq_internal.v1.rows_pb2 import PolicyRow
from codeq_server.core.clock import Now
from codeq_server.core.key_rings import KeyPolicy
from codeq_server.core.shard import Shard


def policy_row(policy: KeyPolicy) -> PolicyRow:
    """Returns the row of a policy with these limits."""
    return PolicyRow(
        concurrency_per_key=policy.concurrency_per_key,
        rate_per_second=policy.rate_per_second,
        rate_burst=policy.rate_burst,
        rate_per_key_per_second=policy.rate_per_key_per_second,
        at_key_limit=policy.at_limit.value,
    )


def limit_keys(shard: Shard, tenant: str, command: str, policy: KeyPolicy | None, now: Now) -> None:
    """Sets the limits of a command, whose policy has nothing else; None: removes the policy."""
    if policy is None:
        shard.policies.delete(tenant, command)
    else:
        shard.policies.put(tenant, command, policy_row(policy), now.wall_ms)
