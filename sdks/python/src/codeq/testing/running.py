"""A running server, as tests see it: its addresses, and what the SDK offers for it."""

from __future__ import annotations

from dataclasses import dataclass

from codeq.async_producer import AsyncProducer
from codeq.client import AsyncClient, Client
from codeq.producer import Producer
from codeq.worker import AsyncWorker, Worker


class ServerNotFoundError(RuntimeError):
    """Nothing that starts a server was found; the message says what to install."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A running server.

    Attributes:
        producer_addr: Address for producers and clients.
        worker_addr: Address for workers.
        http_url: URL of the REST API.
        token: Token that may do everything.
    """

    producer_addr: str
    worker_addr: str
    http_url: str
    token: str

    @property
    def env(self) -> dict[str, str]:
        """The variables that make the SDK, in this or another process, use the server."""
        return {
            "CODEQ_PRODUCER_ADDR": self.producer_addr,
            "CODEQ_WORKER_ADDR": self.worker_addr,
            "CODEQ_TOKEN": self.token,
        }

    def producer(self) -> Producer:
        """Returns a new producer; the caller closes it."""
        return Producer(self.producer_addr, token=self.token)

    def async_producer(self) -> AsyncProducer:
        """Returns a new producer for an event loop; the caller closes it."""
        return AsyncProducer(self.producer_addr, token=self.token)

    def client(self) -> Client:
        """Returns a new client; the caller closes it."""
        return Client(self.producer_addr, token=self.token)

    def async_client(self) -> AsyncClient:
        """Returns a new client for an event loop; the caller closes it."""
        return AsyncClient(self.producer_addr, token=self.token)

    def worker(self, *, concurrency: int = 16, lease_seconds: int = 60, drain_seconds: float = 5.0) -> Worker:
        """Returns a new worker, which the caller runs and stops; see codeq.Worker for the arguments."""
        return Worker(
            self.worker_addr,
            token=self.token,
            concurrency=concurrency,
            lease_seconds=lease_seconds,
            drain_seconds=drain_seconds,
        )

    def async_worker(
        self, *, concurrency: int = 16, lease_seconds: int = 60, drain_seconds: float = 5.0
    ) -> AsyncWorker:
        """Returns a new worker for an event loop, which the caller runs and stops."""
        return AsyncWorker(
            self.worker_addr,
            token=self.token,
            concurrency=concurrency,
            lease_seconds=lease_seconds,
            drain_seconds=drain_seconds,
        )
