"""An identity provider on loopback that tests script: it publishes keys over HTTP or HTTPS, signs tokens, and lies."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jwt
from codeq_server.auth.claims import Token
from codeq_server.auth.jwks.config import JwksConfig
from codeq_server.auth.jwks.validator import JwksValidator
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

NOW = 1_800_000_000.0
AUDIENCE = "codeq"
HELD_SECONDS_MAX = 20.0
"""How long the issuer holds back an answer that a test never releases."""

LAG_SECONDS_MAX = 5.0
"""Longest time that the event loop may stand still: far above the noise of a busy machine, far below the other one."""

_CURVES: Mapping[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


@cache  # RSA keys take long to make
def private_key(algorithm: str, name: str, bits: int = 2048) -> Any:
    """Returns a private key for an algorithm, the same for the same name; "Ed448" is for EdDSA with that curve."""
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    if algorithm == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, bits)


class Signer:
    """A key pair of an issuer."""

    def __init__(self, kid: str | None = "k1", algorithm: str = "RS256", *, bits: int = 2048, name: str = "") -> None:
        self.kid, self.algorithm = kid, "EdDSA" if algorithm == "Ed448" else algorithm
        self.private = private_key(algorithm, name or kid or "", bits)

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key, as it is published."""
        public = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        named = {} if self.kid is None else {"kid": self.kid}
        return {**public, "alg": self.algorithm, "use": "sig", **named}

    def sign(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
        """Returns a token. None in a header or claim leaves it out."""
        headers: dict[str, Any] = {"kid": self.kid, "typ": "JWT"} | dict(header or {})
        kept = {name: value for name, value in headers.items() if value is not None}
        algorithm = str(kept.get("alg", self.algorithm))
        content = json.dumps({name: value for name, value in claims.items() if value is not None}).encode()
        return jwt.PyJWS().encode(content, self.private, algorithm, {"typ": None, **kept})


@dataclass
class Answer:
    """An HTTP answer of the issuer."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


def published(*signers: Signer, **more: Any) -> Answer:
    """Returns an answer with keys."""
    return Answer(json.dumps({"keys": [signer.jwk for signer in signers], **more}).encode())


class Issuer:
    """The issuer, with a thread of its own, so that it slows no test's event loop.

    Attributes:
        answer: Returns the answer to a path; tests replace it at any time. None: the connection is cut.
        asked: Paths of the requests so far.
        has_request: Set once there was one.
        held: Set unless answers are to wait.
    """

    def __init__(self, *signers: Signer, tls: Path | None = None) -> None:
        issuer = self
        self.asked: list[str] = []
        self.answer: Callable[[str], Answer | None] = lambda _: published(*signers)
        self.has_request = threading.Event()
        self.held = threading.Event()
        self.held.set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                issuer.has_request.set()
                issuer.held.wait(HELD_SECONDS_MAX)
                answer = issuer.answer(self.path)
                if answer is None:
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                """Keeps quiet."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """Its base URL, which is also its name."""
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    def publish(self, *signers: Signer) -> None:
        """Publishes other keys from now on."""
        self.answer = lambda _: published(*signers)

    def fail(self, status: int = 503) -> None:
        """Answers with errors from now on."""
        self.answer = lambda _: Answer(status=status)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Keeps quiet: clients hang up on lies."""


class Desk:
    """A validator of an issuer's tokens, with a clock that tests set."""

    def __init__(self, issuer: Issuer, *signers: Signer, **config: Any) -> None:
        self.issuer, self.signer, self.now = issuer, (signers or (Signer(),))[0], NOW
        if signers:
            issuer.publish(*signers)
        self.events: list[tuple[str, str]] = []
        self.config = JwksConfig(
            **{"issuer": issuer.url, "audience": (AUDIENCE,), "jwks_url": f"{issuer.url}/keys"} | config
        )
        self.validator = JwksValidator(
            self.config, clock=lambda: self.now, report=lambda event, details: self.events.append((event, details))
        )

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """The reported events, without the issuer that each one names."""
        prefix = f"issuer {self.config.issuer}: "
        assert all(details.startswith(prefix) for _, details in self.events)
        return [(event, details.removeprefix(prefix)) for event, details in self.events]

    def forged(self, kid: str) -> str:
        """Returns a token that names a key and is not signed with it."""
        _, _, rest = self.token().partition(".")
        header = json.dumps({"alg": self.signer.algorithm, "kid": kid}).encode()
        return f"{base64.urlsafe_b64encode(header).rstrip(b'=').decode()}.{rest}"

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Returns claims of a good token, with changes."""
        good = {"iss": self.issuer.url, "aud": AUDIENCE, "sub": "worker-7", "exp": int(NOW) + 10**6}
        return good | claims

    def token(self, signer: Signer | None = None, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """Returns a token, good unless a change makes it bad."""
        return (signer or self.signer).sign(self.claims(**claims), header)

    async def validated(self, token: str) -> Token | None:
        """Returns the content of an accepted token, or None, waiting if need be."""
        found = self.validator.validate(token)
        return await found() if callable(found) else found

    def at_once(self, token: str) -> Token | None:
        """Returns the same if it can be told at once."""
        found = self.validator.validate(token)
        assert not callable(found)
        return found


def certificate(folder: Path) -> tuple[Path, Path]:
    """Makes a CA and a certificate for 127.0.0.1; returns the files of the CA, and of the chain with its key."""
    begins = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    authority, own = private_key("ES256", "authority"), private_key("ES256", "own")
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])

    def signed(name: x509.Name, key: Any, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(begins).not_valid_after(begins + datetime.timedelta(days=30))
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    key = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ca.pem").write_bytes(signed(issuer, authority, x509.BasicConstraints(ca=True, path_length=None)))
    (folder / "server.pem").write_bytes(key + signed(subject, own, address))
    return folder / "ca.pem", folder / "server.pem"


class Lag:
    """Measures the longest time that the event loop stood still."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = 0.0

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticking.cancel()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, loop.time() - before)


async def settled(desk: Desk) -> None:
    """Waits for the fetch in flight."""
    if (fetching := desk.validator._store._fetching) is not None:
        await asyncio.wait([fetching])


async def until_asked(issuer: Issuer) -> None:
    """Waits until the issuer has a request."""
    assert await asyncio.to_thread(issuer.has_request.wait, 10)
