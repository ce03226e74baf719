"""Configuration from a YAML file, the environment and flags, in that order; validated completely before startup.

`load` returns a frozen `Settings`, or raises a `ConfigError` that names the key as the operator wrote it.
This package opens no file but the configuration file, and binds no port.
"""

from __future__ import annotations

from codeq_server.config.load import DEV_TOKEN, check, describe, describe_gateway, load, load_gateway
from codeq_server.config.raft import PAIR, refuse_pair
from codeq_server.config.settings import (
    Address,
    AuthSettings,
    BackoffSettings,
    ConfigError,
    GatewaySettings,
    LogFormat,
    LogLevel,
    LogSettings,
    Note,
    PersistenceSettings,
    RaftSettings,
    RaftTls,
    Settings,
)

__all__ = [
    "DEV_TOKEN",
    "PAIR",
    "Address",
    "AuthSettings",
    "BackoffSettings",
    "ConfigError",
    "GatewaySettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "Note",
    "PersistenceSettings",
    "RaftSettings",
    "RaftTls",
    "Settings",
    "check",
    "describe",
    "describe_gateway",
    "load",
    "load_gateway",
    "refuse_pair",
]
