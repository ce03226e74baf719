"""Keys of rows that belong to a tenant: its limits, policies, schedules, subscriptions and endpoints.

The tables are in `keys`.
"""

from __future__ import annotations

from . import keys


def endpoint_key(tenant: str, endpoint: str) -> bytes:
    """Returns the key of a tenant's settings for an endpoint; empty: for all its endpoints."""
    return keys.ENDPOINTS + bytes((len(tenant),)) + tenant.encode() + endpoint.encode()


def split_endpoint_key(key: bytes) -> tuple[str, str]:
    """Returns tenant and endpoint.

    Raises:
        ValueError: The key holds no such names.
    """
    return key[2 : 2 + key[1]].decode(), key[2 + key[1] :].decode()


def named_id(key: bytes) -> str:
    """Returns the task id in a key of table "i"."""
    return key[2 + key[1] :].decode()


def tenant_key(name: str) -> bytes:
    """Returns the key of a tenant's row."""
    return keys.TENANTS + name.encode()


def tenant_of(key: bytes) -> str:
    """Returns the name in the key of a tenant's row.

    Raises:
        ValueError: The key holds no name.
    """
    return key[1:].decode()


def schedule_key(tenant: str, name: str) -> bytes:
    """Returns the key of a schedule's row."""
    return keys.SCHEDULES + bytes((len(tenant),)) + tenant.encode() + name.encode()


def split_schedule_key(key: bytes) -> tuple[str, str]:
    """Returns tenant and name of a schedule.

    Raises:
        ValueError: The key holds no tenant or no name.
    """
    end = 2 + key[1]
    if end == 2 or len(key) <= end:
        raise ValueError("the key holds no tenant or no name")
    return key[2:end].decode(), key[end:].decode()


def fire_key(schedule_key: bytes, number: int) -> bytes:
    """Returns the key of a fire of the schedule with this key."""
    end = 2 + schedule_key[1]
    name = schedule_key[end:]
    return keys.FIRES + schedule_key[1:end] + bytes((len(name),)) + name + number.to_bytes(8, "big")


def split_fire_key(key: bytes) -> tuple[bytes, int]:
    """Returns the key of the fire's schedule, and the number of the fire.

    Raises:
        ValueError: The lengths in the key do not match its length.
    """
    end = 2 + key[1]
    name_end = end + 1 + key[end]
    if len(key) != name_end + 8:
        raise ValueError("the lengths do not match")
    return keys.SCHEDULES + key[1:end] + key[end + 1 : name_end], int.from_bytes(key[name_end:], "big")


def fires_between(schedule_key: bytes, first: int, last: int) -> tuple[bytes, bytes]:
    """Returns the range of a schedule's fires from number `first` to number `last`, inclusive."""
    return fire_key(schedule_key, first), fire_key(schedule_key, last + 1)


def topic_key(tenant: str, command: str) -> bytes:
    """Returns the key of the policy of a tenant's command."""
    return keys.TOPICS + bytes((len(tenant),)) + tenant.encode() + command.encode()


def command_of(key: bytes) -> str:
    """Returns the command in the key of a topic."""
    return key[2 + key[1] :].decode()


def topics_after(tenant: str, command: str) -> tuple[bytes, bytes]:
    """Returns the range of a tenant's topics after a command; empty: of all its topics."""
    start = topic_key(tenant, "")
    return start + command.encode() + b"\0", start + b"\x7f"


def subscription_key(tenant: str, subscription: str) -> bytes:
    """Returns the key of a subscription's row; `subscription` is a UUID."""
    return keys.SUBSCRIPTIONS + bytes((len(tenant),)) + tenant.encode() + bytes.fromhex(subscription.replace("-", ""))


def split_subscription_key(key: bytes) -> tuple[str, str]:
    """Returns tenant and id of a subscription.

    Raises:
        ValueError: The key does not hold 16 bytes after the tenant.
    """
    end = 2 + key[1]
    if len(key) != end + 16:
        raise ValueError("not a UUID")
    digits = key[end:].hex()
    return key[2:end].decode(), "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
