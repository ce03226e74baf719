"""nginx and HAProxy in front of a server, in their usual configurations."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raw_http import exchange, replies
from server_process import ServerProcess, reserved_port

START_SECONDS_MAX: Final = 30.0
POLL_SECONDS: Final = 0.05

NGINX: Final = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log info;
events {{ }}
http {{
  access_log off; client_max_body_size 9m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  upstream rest {{ server {http}; keepalive 8; }}
  server {{ listen {bare}; location / {{ proxy_pass http://{http}; }} }}
  server {{ listen {kept}; location / {{
    proxy_pass http://rest; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }} }}
  server {{ listen {upgrading}; location / {{
    proxy_pass http://rest; proxy_http_version 1.1; proxy_set_header Host $host;
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; }} }}
  server {{ listen {grpc} http2; location / {{ grpc_pass grpc://{producer}; grpc_read_timeout 1h; }} }}
}}
"""

HAPROXY: Final = """
global
  stats socket {folder}/stats level admin
defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 75s
frontend rest
  bind {bare}
  default_backend rest
frontend named
  bind {named}
  default_backend named
frontend grpc
  bind {grpc} proto h2
  default_backend grpc
backend rest
  option httpchk HEAD /readyz
  server codeq {http} check inter 100ms
backend named
  option httpchk
  http-check send meth HEAD uri /readyz ver HTTP/1.1 hdr Host codeq.example
  http-check expect status 200
  server codeq {http} check inter 100ms
backend grpc
  server codeq {producer} proto h2 check inter 100ms
"""


@dataclass(frozen=True)
class Proxy:
    """A running proxy.

    Attributes:
        rest: URLs that lead to REST, by configuration.
        grpc: Address that leads to gRPC.
        folder: Folder with the proxy's files.
    """

    rest: dict[str, str]
    grpc: str
    folder: Path


@contextmanager
def nginx(folder: Path, server: ServerProcess) -> Iterator[Proxy]:
    """Runs nginx with its defaults, with keep-alive connections, and with the usual lines for upgrades."""
    with _running(folder, server, NGINX, ("bare", "kept", "upgrading"), ["nginx", "-p", str(folder), "-c"]) as proxy:
        yield proxy


@contextmanager
def haproxy(folder: Path, server: ServerProcess) -> Iterator[Proxy]:
    """Runs HAProxy with health checks by HEAD, of HTTP/1.0 and of HTTP/1.1."""
    with _running(folder, server, HAPROXY, ("bare", "named"), ["haproxy", "-db", "-f"]) as proxy:
        yield proxy


def health_checks(proxy: Proxy) -> dict[str, tuple[str, str]]:
    """Returns the result of HAProxy's last check of each backend, and its state."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.fspath(proxy.folder / "stats"))
        connection.sendall(b"show stat\n")
        table = b"".join(iter(lambda: connection.recv(65_536), b"")).decode().lstrip("# ")
    rows = [row for row in csv.DictReader(table.splitlines()) if row["svname"] == "codeq"]
    return {row["pxname"]: (row["check_status"], row["status"]) for row in rows}


@contextmanager
def _running(
    folder: Path, server: ServerProcess, template: str, ways: tuple[str, ...], command: list[str]
) -> Iterator[Proxy]:
    folder.mkdir()
    ports = {way: reserved_port() for way in (*ways, "grpc")}
    addresses = {way: f"127.0.0.1:{port.getsockname()[1]}" for way, port in ports.items()}
    config = folder / "proxy.conf"
    http = server.http_url.removeprefix("http://")
    config.write_text(template.format(folder=folder, http=http, producer=server.producer_addr, **addresses))
    log = folder / "proxy.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*command, str(config)], stdout=out, stderr=out)
    try:
        rest = {way: f"http://{addresses[way]}" for way in ways}
        for url in rest.values():
            _wait_for(url, process, log)
        yield Proxy(rest, addresses["grpc"], folder)
    finally:
        process.terminate()
        process.wait(START_SECONDS_MAX)
        for port in ports.values():
            port.close()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until requests reach the server."""
    asked = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    give_up = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            if replies(exchange(url, asked))[0].status == 200:
                return
        except OSError:
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(POLL_SECONDS)
