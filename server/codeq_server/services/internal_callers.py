"""Who may use the internal services: gateways and the other owners of shards, which show a secret."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from codeq_gateway.links import SECRET_KEY

from codeq_server.core.errors import Reason, Rejection

OWNER_KEY: Final = "codeq-owner"
"""Metadata in which an owner of a shard says whom it is and whom it wants; see `Owner.says_to`."""

Denied = Callable[[str, Rejection, str], None]
"""Records that a caller was refused: the service, the rejection and the caller's gRPC peer."""
Metadata = tuple[tuple[str, str], ...]
"""Metadata of a call."""


class Owner(NamedTuple):
    """One of the owners of the shards of an installation, with what it shares with the others.

    Attributes:
        shard: Index of its shard.
        shards: Number of shards.
        secret: The secret that all owners know.
        is_member: Whether each shard has several processes, of which the one that leads its group owns it.
    """

    shard: int
    shards: int
    secret: str
    is_member: bool = False

    def says_to(self, shard: int) -> Metadata:
        """Returns the metadata of its calls to the owner of another shard."""
        return (SECRET_KEY, self.secret), (OWNER_KEY, f"{self.shard} to {shard} of {self.shards}")

    def check(self, said: str) -> None:
        """Checks that another owner means this one; otherwise two would take each other's tasks.

        Args:
            said: What the other one says in its metadata.

        Raises:
            Rejection: BAD_HANDSHAKE.
        """
        others = [other for other in range(self.shards) if self.is_member or other != self.shard]
        if any(said == f"{other} to {self.shard} of {self.shards}" for other in others):
            return
        raise Rejection(
            Reason.BAD_HANDSHAKE,
            f"the call goes from shard {said[:40] or 'unknown'}, but this is shard {self.shard} of {self.shards}: the "
            "nodes must have the same list of nodes, and each its own name",
        )


class InternalCallers:
    """Checks the secrets of callers.

    Args:
        gateways: Secrets of gateways; empty ones admit nobody.
        owner: This process as the owner of a shard; None: there is one shard.
        denied: Called when a caller is refused.
        on_known: Called with the gRPC peer of a connection that presented a secret.
    """

    def __init__(
        self, gateways: Sequence[str], owner: Owner | None, denied: Denied, on_known: Callable[[str], None]
    ) -> None:
        self._gateways = [secret.encode() for secret in gateways if secret]
        self._owner = owner
        self._denied = denied
        self._on_known = on_known

    def check(self, service: str, context: Any) -> bool:
        """Checks that the caller belongs to this installation; call it before anything is read.

        Returns:
            Whether it is the owner of another shard; otherwise it is a gateway.

        Raises:
            Rejection: UNAUTHENTICATED; BAD_HANDSHAKE: the owner of another shard means another one than this.
        """
        metadata: Mapping[str, Any] = dict(context.invocation_metadata())
        shown = metadata.get(SECRET_KEY, "")
        given = shown.encode() if isinstance(shown, str) else shown
        is_gateway = True in [hmac.compare_digest(given, secret) for secret in self._gateways]
        owner = self._owner
        is_owner = owner is not None and hmac.compare_digest(given, owner.secret.encode())
        if not (is_gateway or is_owner):
            refusal = Rejection(
                Reason.UNAUTHENTICATED,
                "the secret is missing or wrong: see gatewaySecret, and cluster.secret between nodes",
            )
            self._denied(service, refusal, context.peer())
            raise refusal
        if owner is not None and is_owner:
            owner.check(str(metadata.get(OWNER_KEY, "")))
        self._on_known(context.peer())
        return is_owner
