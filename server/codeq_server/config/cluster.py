"""Completes the settings of a node of a static cluster, and rejects combinations that make no sense."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from codeq_server.config.cluster_settings import ClusterSettings
from codeq_server.config.declaration import variable
from codeq_server.config.sources import GivenSettings

NODES_MIN: Final = 2
_SECRET_SALT: Final = b"codeq static cluster secret\n"


def completed(given: GivenSettings, cluster: ClusterSettings | None, producer_secret: str) -> ClusterSettings | None:
    """Returns the settings of a node of a static cluster; None: this node belongs to none.

    Args:
        given: All given values.
        cluster: The settings as given.
        producer_secret: The only producer token, from which the secret is derived if none is configured; empty: it is
            not known, or there may be several.

    Raises:
        ConfigError: Settings contradict each other.
    """
    if cluster is None:
        return None
    if not cluster.enabled:
        if cluster.enabled is None:
            for name, value in given.values.items():
                if name.startswith("cluster."):
                    raise value.error(f"has no effect without {variable('cluster.enabled')}=true")
        return None
    if len(cluster.nodes) < NODES_MIN:
        raise given.error("cluster.nodes", f"must name at least {NODES_MIN} nodes, this one and the others")
    if cluster.self_id not in cluster.nodes:
        problem = f"{cluster.self_id} is not among the names of" if cluster.self_id else "is required: a name among"
        raise given.error("cluster.self_id", f"{problem} {given.key('cluster.nodes')}")
    text = cluster.secret or producer_secret
    if not text:
        raise given.error(
            "cluster.secret",
            f"is required: it is derived only from a {given.key('producer_auth_config')} that is one token, and not if "
            "a provider is mtls",
        )
    return replace(cluster, secret=hashlib.sha256(_SECRET_SALT + text.encode()).hexdigest())
