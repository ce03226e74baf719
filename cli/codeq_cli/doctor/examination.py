"""Runs every check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from codeq_server.config import Settings
from codeq_server.node.listeners import listeners_of

from codeq_cli import store_lock
from codeq_cli.doctor import addresses, certificates, configuration, disk, machine, stored
from codeq_cli.doctor.findings import Finding, fine
from codeq_cli.server_commands import Mode


def examine(config: str | None, environment: Mapping[str, str], *, dev: bool, mode: Mode = Mode.SERVE) -> list[Finding]:
    """Returns the findings about a configuration and this machine.

    Args:
        config: Configuration file; None: the file that the environment names, if any.
        environment: Environment.
        dev: Whether the server is to be started with --dev.
        mode: Command that is to be started.
    """
    return list(_findings(config, environment, dev=dev, mode=mode))


def _findings(config: str | None, environment: Mapping[str, str], *, dev: bool, mode: Mode) -> Iterator[Finding]:
    rest = mode is not Mode.SERVER
    loading = configuration.Loading(config, environment, dev=dev, gateway=mode is Mode.GATEWAY)
    settings = loading.settings
    yield from loading.findings
    tracing = isinstance(settings, Settings) and settings.tracing_enabled
    yield from configuration.check_variables(environment, tracing=tracing)
    yield from configuration.check_file(config, environment)
    yield from machine.check_versions(settings)
    yield from machine.check_files(settings, rest=rest)
    yield from machine.check_clock()
    if settings is None:
        return
    running = isinstance(settings, Settings) and _is_running(settings)
    listeners = listeners_of(settings, rest=rest)
    yield from addresses.check_ports(listeners, running=running)
    yield from addresses.check_plaintext(settings, listeners)
    yield from addresses.check_names(settings)
    yield from certificates.check_certificates(settings, rest=rest)
    if not isinstance(settings, Settings):
        return
    if settings.raft is not None:
        yield from addresses.check_members(settings.raft)
    if settings.cluster is not None:
        yield from addresses.check_nodes(settings.cluster)
    yield from configuration.check_tokens(settings, loading.tokenless)
    yield from configuration.check_durability(settings, environment)
    yield from disk.check_folders(settings)
    yield from disk.check_space(settings)
    yield from disk.check_fsync(settings)
    if running:
        yield fine(
            stored.CHECK, f"{settings.persistence.path} is open in a running server, so its rows are not checked"
        )
    else:
        yield from stored.check_closed(settings)


def _is_running(settings: Settings) -> bool:
    """Returns whether a server has the store open."""
    path = settings.persistence.path
    try:
        return path is not None and store_lock.is_open(path)
    except OSError:
        return False  # found with the folders
