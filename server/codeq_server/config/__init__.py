"""Configuration: a YAML file, then the environment, then flags; checked as a whole before anything starts.

`load` gives one frozen `Settings` or one `ConfigError` that names the key as the operator wrote it.
Nothing here opens a file but the configuration file, and nothing here binds a port.
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
