"""How many tokens of an identity provider one core validates per second, by algorithm.

    .venv/bin/python bench/validations.py

Each token is new to the server and its key is known: the case of a fleet that renews its tokens. Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final

import jwt
from codeq_server.auth.claims import Token
from codeq_server.auth.jwks.config import JwksConfig
from codeq_server.auth.jwks.validator import JwksValidator
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

TOKENS: Final = 500
ROUNDS: Final = 5
AUDIENCE: Final = "codeq"


def keys() -> dict[str, Any]:
    """Returns a private key for each measured algorithm."""
    return {
        "RS256": rsa.generate_private_key(65537, 2048),
        "PS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "ES512": ec.generate_private_key(ec.SECP521R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }


def issuer(private: dict[str, Any]) -> HTTPServer:
    """Returns a server that publishes the public keys."""
    public = [
        {**jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True), "alg": name, "kid": name}
        for name, key in private.items()
    ]
    body = json.dumps({"keys": [{k: v for k, v in jwk.items() if k != "key_ops"} for jwk in public]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keeps quiet."""

    return HTTPServer(("127.0.0.1", 0), Handler)


async def rates(private: dict[str, Any], url: str) -> dict[str, int]:
    """Returns the validations per second of the best of several rounds, by algorithm."""
    validator = JwksValidator(JwksConfig(issuer=url, audience=(AUDIENCE,), jwks_url=url))
    found = {}
    for name, key in private.items():
        claims = {"iss": url, "aud": AUDIENCE, "exp": int(time.time()) + 3600, "scope": "codeq:claim codeq:result"}
        claims |= {"tenantId": "acme", "eventTypes": ["render", "mail"], "email": "worker@acme.example"}
        tokens = [
            jwt.encode(claims | {"sub": f"worker-{number}"}, key, name, {"kid": name}) for number in range(TOKENS)
        ]
        answer = validator.validate(tokens[0])
        if callable(answer):
            await answer()
        times = []
        for _ in range(ROUNDS):
            began_at = time.perf_counter()
            accepted = [isinstance(validator.validate(token), Token) for token in tokens]
            times.append(time.perf_counter() - began_at)
            if not all(accepted):
                raise RuntimeError(f"tokens with {name} were not accepted at once")
        found[name] = round(TOKENS / min(times))
    return found


def main() -> None:
    """Measures, and prints the rates."""
    private = keys()
    server = issuer(private)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps(asyncio.run(rates(private, f"http://127.0.0.1:{server.server_port}"))))
    server.shutdown()


if __name__ == "__main__":
    main()
