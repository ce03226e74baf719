"""Authentication of a server: its authenticator, what keeps that current, and what it logs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.jwks.config import KEYS_FETCHED
from codeq_server.auth.revocation import Upkeep
from codeq_server.config import AuthSettings

RESTART_SECONDS: Final = 5.0
"""Pause before upkeep that failed unexpectedly goes on."""

_log = structlog.get_logger()


class Authentication:
    """The authenticator that settings describe.

    Attributes:
        authenticator: The authenticator.
    """

    def __init__(self, auth: AuthSettings) -> None:
        """Builds the authenticator.

        Raises:
            ConfigError: A file that a provider needs cannot be used.
        """
        producer, worker = auth.producer.build(_ProviderLog("producer")), auth.worker.build(_ProviderLog("worker"))
        self.authenticator = Authenticator(
            producer.validator,
            worker.validator,
            producer_identify=producer.identify,
            worker_identify=worker.identify,
            producer_as_worker=auth.allow_producer_as_worker,
            admins_operate=auth.admins_operate,
            on_trouble=_log_validation,
        )
        self._upkeep = (*producer.upkeep, *worker.upkeep)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to keep the validators current."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(work), name="token-upkeep") for work in self._upkeep]

    def stop(self) -> None:
        """Ends that."""
        for task in self._tasks:
            task.cancel()

    async def _keep(self, work: Upkeep) -> None:
        while True:
            try:
                await work(self.authenticator.revoke)
            except Exception as problem:  # noqa: BLE001 - a bug must not keep revoked tokens alive for ever
                _log.error(
                    "token_upkeep_failed", exc_info=problem, hint="changed tokens take effect later; report this"
                )
            else:
                return
            await asyncio.sleep(RESTART_SECONDS)


class _ProviderLog:
    """Logs what happens to the providers of a role."""

    def __init__(self, role: str) -> None:
        self._role = role

    def reloaded(self, path: Path, count: int, changed: int) -> None:
        _log.info("token_file_read", role=self._role, path=str(path), tokens=count, changed=changed)

    def unusable(self, path: Path, problem: str) -> None:
        _log.error(
            "token_file_rejected",
            role=self._role,
            path=str(path),
            error=problem,
            hint="the tokens read before remain valid; mend the file, and it is read again within seconds",
        )

    def provider(self, event: str, details: str) -> None:
        tell = _log.info if event == KEYS_FETCHED else _log.warning
        tell(event, role=self._role, details=details)


def _log_validation(problem: Exception) -> None:
    # Imported only here: a server without an identity provider runs without a library for its tokens.
    from codeq_server.auth.jwks.store import KeysUnavailableError  # noqa: PLC0415

    _log.error(
        "token_validation_failed",
        error=problem,
        exc_info=None if isinstance(problem, KeysUnavailableError) else problem,
        hint="calls with tokens that are not cached are rejected until tokens can be validated again",
    )
