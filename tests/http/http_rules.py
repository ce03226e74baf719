"""Rules of RFC 9110 and RFC 9112: methods, targets, heads, connections and replies."""

from __future__ import annotations

from collections.abc import Iterator

from http_case import (
    BODY,
    CHUNKED,
    CHUNKS,
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    LENGTH,
    TASKS,
    TOKEN,
    Rule,
    create,
    get,
    request,
)


def methods() -> Iterator[Rule]:
    """Yields rules of methods."""
    yield Rule("9110 9.3.1", "GET is served", get(), (200,))
    yield Rule("9110 9.3.2", "HEAD is served where GET is", request(b"HEAD"), (200,), shows={"content-length": "16"})
    for path in (b"/readyz", b"/metrics", b"/openapi.json"):
        yield Rule("9110 9.3.2", f"HEAD of {path.decode()}", request(b"HEAD", path), (200,))
    missing = request(b"HEAD", TASKS + b"/none", TOKEN)
    yield Rule("9110 9.3.2", "HEAD of a resource has the status of GET", missing, (404,))
    yield Rule("9110 9.3.2", "HEAD of a list", request(b"HEAD", TASKS, TOKEN), (200,))
    yield Rule(
        "9110 9.3.2", "HEAD without a token", request(b"HEAD", TASKS), (401,), shows={"www-authenticate": "Bearer"}
    )
    yield Rule("9110 9.3.2", "HEAD where GET is not", request(b"HEAD", TASKS + b"/t/nack", TOKEN), (405,))
    yield Rule("9110 9.3.3", "POST is served", create(LENGTH), (202,))
    asked = request(b"OPTIONS", TASKS)
    yield Rule("9110 9.3.7", "OPTIONS tells the methods", asked, (204,), shows={"allow": "GET, HEAD, OPTIONS, POST"})
    yield Rule("9110 9.3.7", "OPTIONS of a page", request(b"OPTIONS"), (204,), shows={"allow": "GET, HEAD, OPTIONS"})
    yield Rule(
        "9110 9.3.7",
        "OPTIONS of a path with variables",
        request(b"OPTIONS", b"/v1/codeq/admin/cluster/members/n"),
        (204,),
        shows={"allow": "DELETE, OPTIONS"},
    )
    yield Rule("9110 9.3.7", "OPTIONS of nothing", request(b"OPTIONS", b"/nowhere"), (404,))
    yield Rule(
        "9110 9.3.7",
        "OPTIONS * asks about the server",
        request(b"OPTIONS", b"*"),
        (204,),
        shows={"allow": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"},
    )
    yield Rule(
        "9112 3.2.4",
        "absolute target without a path asks about the server",
        request(b"OPTIONS", b"http://127.0.0.1"),
        (204,),
        shows={"allow": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"},
    )
    not_allowed = request(b"PUT", TASKS, b"Content-Length: 0")
    yield Rule("9110 15.5.6", "405 tells the methods", not_allowed, (405,), shows={"allow": "GET, HEAD, OPTIONS, POST"})
    yield Rule("9110 15.5.6", "a known method on a page", request(b"PATCH", b"/healthz"), (405,))
    for method in (b"FOO", b"PROPFIND", b"TRACE", b"get", b"Get", b"M-SEARCH", b"GETS", b"!#$%&'*+.^_`|~", b"X" * 300):
        yield Rule("9110 9.1", f"method {method[:16].decode()} is unknown", request(method), (501,))
    yield Rule("9110 9.1", "the body of an unknown method is read", request(b"FOO", b"/", LENGTH, body=BODY), (501,))
    yield Rule("9110 9.3.6", "CONNECT is not for servers", request(b"CONNECT", b"h:80"), (501,), closes=True)
    for method in (b"G\x01ET", b"G(T", b"G:T", b'"GET"', b"G\x80T"):
        yield Rule("9110 5.6.2", f"method {method!r} is no token", request(method), (400,), closes=True)


def request_lines() -> Iterator[Rule]:
    """Yields rules of the request line."""
    tail = b"\r\nHost: 127.0.0.1\r\n\r\n"
    for line in (
        b"GET  /healthz HTTP/1.1",
        b"GET /healthz  HTTP/1.1",
        b"GET\t/healthz HTTP/1.1",
        b"GET /healthz\tHTTP/1.1",
        b" GET /healthz HTTP/1.1",
        b"GET /healthz HTTP/1.1 ",
        b"GET /healthz",
        b"GET /healthz HTTP/1",
        b"GET /healthz HTTP/1.",
        b"GET /healthz HTTP/1.10",
        b"GET /healthz HTTP/01.1",
        b"GET /healthz http/1.1",
        b"GET /healthz HTTPS/1.1",
        b"GET /healthz FTP/1.1",
        b"GET /healthz HTTP/1.1\x0b",
        b"GET /he althz HTTP/1.1",
        b"/healthz GET HTTP/1.1",
        b"GET HTTP/1.1",
    ):
        yield Rule("9112 3", f"request line {line!r}", line + tail, (400,), closes=True)
    for version in (b"HTTP/2.0", b"HTTP/0.9", b"HTTP/3.0", b"HTTP/9.9"):
        yield Rule("9110 15.6.6", f"version {version.decode()}", request(version=version), (505,), closes=True)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield Rule("9113 3.4", "HTTP/2 with prior knowledge is not spoken", preface, (505,), closes=True)
    yield Rule("9110 2.5", "a later minor version is served as 1.1", request(version=b"HTTP/1.9"), (200,))
    yield Rule("9112 2.2", "an empty line before a request is skipped", b"\r\n" + get(), (200,))
    yield Rule("9112 2.2", "an empty line behind a body is skipped", create(LENGTH) + b"\r\n" + get(), (202, 200))
    yield Rule("9112 2.2", "many empty lines are no request", b"\r\n\r\n" + get(), (400,), closes=True)
    yield Rule(
        "9112 2.2", "white space before the first header", b"GET /healthz HTTP/1.1\r\n Host: h\r\n\r\n", (400,), True
    )
    lone = get().replace(b"\r\n", b"\n")
    yield Rule("9112 2.2", "line feeds alone", lone, (400,), closes=True)
    yield Rule("9112 2.2", "a line feed alone", get(b"X: y\nZ: z"), (400,), closes=True)
    yield Rule("9112 2.2", "a carriage return alone in a value", get(b"X: y\rz"), (400,), closes=True)
    yield Rule("9112 2.2", "a carriage return alone in the request line", b"GET /\r HTTP/1.1" + tail, (400,), True)
    yield Rule("9112 2.2", "a carriage return twice", get(b"X: y\r"), (400,), closes=True)
    yield Rule("9112 2.2", "TLS to a port without", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,), True)


def targets() -> Iterator[Rule]:
    """Yields rules of targets."""
    for target, status in (
        (b"/healthz?", 200),
        (b"/healthz?a=b&c=%20", 200),
        (b"/he%61lthz", 200),
        (b"/nowhere", 404),
        (b"/", 404),
        (b"//healthz", 404),
        (b"/./healthz", 404),
        (b"/v1/../healthz", 404),
        (b"/healthz/", 404),
        (b"/HEALTHZ", 404),
        (b"/" + b"x" * 8_000, 404),
        (b"/%F0%9F%90%99", 404),
        (b"http://127.0.0.1/healthz", 200),
        (b"HTTP://127.0.0.1:80/healthz?x", 200),
        (b"http://127.0.0.1", 404),
        (b"http://127.0.0.1?x", 404),
    ):
        yield Rule("9112 3.2", f"target {target[:40].decode()}", request(target=target), (status,))
    for target in (
        b"healthz",
        b"?x",
        b"*",
        b"127.0.0.1:80",
        b"/healthz#part",
        b"/healthz?a#b",
        b"/%",
        b"/%2",
        b"/%zz",
        b"/healthz?a=%g0",
        b"ftp://127.0.0.1/healthz",
        b"http:///healthz",
        b"http:/healthz",
        b"http://user@127.0.0.1/healthz",
        b"http://127.0.0.1:port/healthz",
        b"/heal\x7fthz",
    ):
        yield Rule("9112 3.2", f"target {target!r}", request(target=target), (400,), closes=True)
    yield Rule(
        "9110 15.5.15", "a target that is too long", request(target=b"/" + b"x" * HEAD_BYTES_MAX), (414,), closes=True
    )


def hosts() -> Iterator[Rule]:
    """Yields rules of Host. The server was started with --dev: it answers to loopback names only."""
    yield Rule("9112 3.2", "Host is missing", request(host=None), (400,), closes=True)
    yield Rule("9112 3.2", "Host is there twice", get(b"Host: 127.0.0.1"), (400,), closes=True)
    yield Rule("9112 3.2", "Host is there twice in other letters", get(b"hOST: localhost"), (400,), closes=True)
    for value in (
        b"a b/c?d",
        b"a/b",
        b"127.0.0.1:80:80",
        b"127.0.0.1:x",
        b"u@127.0.0.1",
        b"[::1",
        b"::1",
        b"a\\b",
        b"a,b@c",
        b"h%2",
        b"\xc3\xa9",
    ):
        yield Rule("9112 3.2", f"Host {value!r}", request(host=b"Host: " + value), (400,), closes=True)
    for value in (b"localhost", b"LocalHost:80", b"127.0.0.1:", b"[::1]:8080", b"  localhost\t "):
        yield Rule("9110 7.2", f"Host {value!r}", request(host=b"Host:" + value), (200,))
    yield Rule("9110 7.2", "another Host than one served here", request(host=b"Host: evil.example"), (400,))
    yield Rule("9110 7.2", "an empty Host is none that is served here", request(host=b"Host:"), (400,))
    foreign = request(target=b"http://evil.example/healthz")
    yield Rule("9112 3.2.2", "the authority of the target counts", foreign, (400,))
    own = request(target=b"http://localhost/healthz", host=b"Host: evil.example")
    yield Rule("9112 3.2.2", "Host does not count beside it", own, (200,))
    absent = request(target=b"http://localhost/healthz", host=None)
    yield Rule("9112 3.2.2", "Host is missing beside it", absent, (400,), closes=True)


def fields() -> Iterator[Rule]:
    """Yields rules of header lines."""
    for line in (b"X-Request-Id:id1", b"X-Request-Id: id1", b"x-request-ID:\t id1 \t ", b"X-Request-Id:   id1"):
        yield Rule(
            "9110 5.5", f"white space around a value: {line!r}", get(line), (200,), shows={"x-request-id": "id1"}
        )
    for line in (
        b"X : y",
        b"X\t: y",
        b": y",
        b"X y: z",
        b"X",
        b"X\x00: y",
        b"X: a\x00b",
        b"X: a\x01b",
        b"X: a\x7fb",
        b"X: a\x0bb",
        b"X(y): z",
        b"X\x80: y",
        b"X: y\r\n folded",
        b"X: y\r\n\tfolded",
        b"X:\r\n y",
    ):
        yield Rule("9112 5.1", f"header line {line!r}", get(line), (400,), closes=True)
    for line in (b"X:", b"X: ", b"X: \x80\xff", b"!#$%&'*+-.^_`|~09aZ: y", b"X: a,,b", b'X: "a\\"b"'):
        yield Rule("9110 5.5", f"header line {line!r}", get(line), (200,))
    yield Rule(
        "9110 5.3",
        "lines of one name are one list",
        get(b"X-Request-Id: a", b"X-Request-Id: b", b"Connection: keep-alive", b"Connection: x"),
        (200,),
    )
    for line in (TOKEN, b"Content-Type: application/json", b"Idempotency-Key: k"):
        yield Rule("9110 5.3", f"twice what is single: {line!r}", create(LENGTH, line, line), (400,), closes=True)
    many = [b"X: y"] * (HEADERS_MAX - 1)
    yield Rule("6585 5", "as many headers as there may be", get(*many), (200,))
    yield Rule("6585 5", "too many headers", get(*many, b"X: y"), (431,), closes=True)
    yield Rule("6585 5", "a head that is too large", get(b"X: " + b"y" * HEAD_BYTES_MAX), (431,), closes=True)
    yield Rule("6585 5", "a large head", get(b"X: " + b"y" * (HEAD_BYTES_MAX - 200)), (200,))
    json = b"Content-Type: \t application/json \t"
    yield Rule("9110 5.5", "white space around Content-Type", create(LENGTH, json), (202,))
    spaced = request(b"POST", TASKS, b"Authorization: \t Bearer dev-token\t ", LENGTH, body=BODY)
    yield Rule("9110 5.5", "white space around Authorization", spaced, (202,))
    packed = create(LENGTH, b"Content-Encoding: identity \t")
    yield Rule("9110 5.5", "white space around Content-Encoding", packed, (202,))


def upgrades() -> Iterator[Rule]:
    """Yields rules of Upgrade, which is always ignored."""
    for name, lines in (
        (
            "h2c, as curl asks",
            [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"],
        ),
        ("h2c, passed on without its settings", [b"Connection: upgrade", b"Upgrade: h2c"]),
        ("websocket", [b"Upgrade: websocket", b"Connection: keep-alive, Upgrade", b"Sec-WebSocket-Version: 13"]),
        ("anything", [b"Upgrade: foo/2, bar", b"Connection: Upgrade"]),
        ("without Connection", [b"Upgrade: h2c"]),
        ("Connection without it", [b"Connection: upgrade"]),
        ("empty", [b"Connection: upgrade", b"Upgrade:"]),
        ("on several lines", [b"Upgrade: a", b"Upgrade: b", b"Connection: x", b"Connection: Upgrade"]),
    ):
        yield Rule("9110 7.8", f"upgrade of POST: {name}", create(LENGTH, *lines), (202,), shows={"upgrade": None})
        yield Rule("9110 7.8", f"upgrade with chunks: {name}", create(CHUNKED, *lines, body=CHUNKS), (202,))
        yield Rule("9110 7.8", f"upgrade of GET: {name}", get(*lines), (200,))
        unknown = create(LENGTH, *lines, body=b'{"kommand":"rule"}'.ljust(len(BODY)))
        yield Rule("9110 7.8", f"the body counts with an upgrade: {name}", unknown, (400,))
    ended = create(LENGTH, b"Connection: Upgrade, close", b"Upgrade: h2c")
    yield Rule("9112 9.6", "close beside an upgrade", ended, (202,), closes=True)


def connections() -> Iterator[Rule]:
    """Yields rules about which connections stay open or close."""
    goes_on: dict[str, str | None] = {"connection": None}
    ends: dict[str, str | None] = {"connection": "close"}
    yield Rule("9112 9.3", "connections of 1.1 go on", get(), (200,), shows=goes_on)
    yield Rule("9112 9.3", "when it is asked for, too", get(b"Connection: keep-alive"), (200,), shows=goes_on)
    for value in (b"close", b"Close ", b"x, close", b"close,x", b"keep-alive, close"):
        yield Rule("9112 9.6", f"connection {value!r}", get(b"Connection: " + value), (200,), closes=True, shows=ends)
    several = get(b"Connection: x", b"Connection: close")
    yield Rule("9112 9.6", "close on the second line", several, (200,), closes=True, shows=ends)
    yield Rule("9112 9.6", "a word that begins with close", get(b"Connection: closed"), (200,), shows=goes_on)
    for lines in ([], [b"Connection: keep-alive"], [b"Connection: close"]):
        old = request(b"GET", b"/healthz", *lines, version=b"HTTP/1.0")
        yield Rule("9112 9.3", f"connections of 1.0 end: {lines}", old, (200,), closes=True, shows=ends)
    foreign = request(version=b"HTTP/1.0", host=b"Host: a b")
    yield Rule("9112 3.2", "Host of 1.0 is checked, too", foreign, (400,), closes=True)
    pipeline = create(LENGTH) + request(b"GET", b"/nowhere") + get() + create(CHUNKED, body=CHUNKS)
    yield Rule("9112 9.3.2", "a pipeline is answered in order", pipeline, (202, 404, 200, 202))
    yield Rule("9112 9.3.2", "refusals in a pipeline", request(b"FOO") + get() + request(b"PUT"), (501, 200, 405))
    broken = get() + get() + b"nonsense\r\n\r\n"
    yield Rule("9112 9.3.2", "nonsense in a pipeline, in its turn", broken, (200, 200, 400), closes=True)


def statuses() -> Iterator[Rule]:
    """Yields rules of replies by their status."""
    claim = request(b"POST", TASKS + b"/claim", TOKEN, b"Content-Length: 23", body=b'{"commands":["EMPTY1"]}')
    none: dict[str, str | None] = {"content-length": None, "content-type": None, "transfer-encoding": None}
    yield Rule("9110 15.3.5", "204 has no body and no length", claim, (204,), shows=none)
    bare: dict[str, str | None] = {"www-authenticate": "Bearer", "content-type": "application/json"}
    yield Rule("9110 15.5.2", "401 says how", request(b"GET", TASKS), (401,), shows=bare)
    yield Rule("9110 15.5.5", "404 is JSON", request(target=b"/x"), (404,), shows={"content-type": "application/json"})
    large = create(b"Content-Length: %d" % (2 << 20), body=b" " * (2 << 20))
    yield Rule("9110 15.5.14", "413, and the connection goes on", large, (413,))
    typed = create(LENGTH, b"Content-Type: text/plain")
    yield Rule("9110 15.5.16", "another type than JSON", typed, (400,))
    packed = create(LENGTH, b"Content-Encoding: gzip")
    yield Rule("9110 8.4", "content codings are not unpacked", packed, (400,))
