"""Configuration from a YAML file, the environment and flags, in that order; validated completely before startup.

`load` returns a frozen `Settings`, or raises a `ConfigError` that names the key as the operator wrote it.
This package opens no file but the configuration file and those of tokens, and binds no port.
"""

from __future__ import annotations

from codeq_server.config.addresses import Address, is_loopback
from codeq_server.config.cluster_settings import ClusterSettings
from codeq_server.config.given import ConfigError, Note
from codeq_server.config.load import check, describe, load, load_gateway
from codeq_server.config.raft import PAIR, refuse_pair
from codeq_server.config.raft_settings import RaftSettings
from codeq_server.config.settings import (
    AuthSettings,
    GatewaySettings,
    PersistenceSettings,
    ProcessSettings,
    RestSettings,
    Settings,
)
from codeq_server.config.telemetry_settings import telemetry_off_by
from codeq_server.config.tls import ClientTls, ListenerTls
from codeq_server.config.tokens import DEV_TOKEN, NoProviderError

__all__ = [
    "DEV_TOKEN",
    "PAIR",
    "Address",
    "AuthSettings",
    "ClientTls",
    "ClusterSettings",
    "ConfigError",
    "GatewaySettings",
    "ListenerTls",
    "NoProviderError",
    "Note",
    "PersistenceSettings",
    "ProcessSettings",
    "RaftSettings",
    "RestSettings",
    "Settings",
    "check",
    "describe",
    "is_loopback",
    "load",
    "load_gateway",
    "refuse_pair",
    "telemetry_off_by",
]
