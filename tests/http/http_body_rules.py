"""Rules of RFC 9110 and RFC 9112 about bodies: lengths, codings, chunks and expectations."""

from __future__ import annotations

from collections.abc import Iterator

from http_case import (
    BODY,
    CHUNKED,
    CHUNKS,
    HEADERS_MAX,
    LENGTH,
    TASKS,
    TOKEN,
    Rule,
    create,
    get,
    request,
)


def lengths() -> Iterator[Rule]:
    """Yields rules of Content-Length."""
    size = len(BODY)
    for value in (b"%d", b" %d ", b"\t%d\t", b"000%d"):
        yield Rule("9110 8.6", f"length {value!r}", create(b"Content-Length:" + value % size), (202,))
    for value in (
        b"+19",
        b"-19",
        b"1 9",
        b"19,19",
        b"19, 19",
        b"0x13",
        b"19.0",
        b"1e1",
        b"",
        b"x",
        b"9" * 30,
        b"19;",
        b"\xb9",
    ):
        yield Rule("9112 6.3", f"length {value!r}", create(b"Content-Length: " + value), (400,), closes=True)
    yield Rule("9112 6.3", "two lengths", create(LENGTH, b"Content-Length: 20"), (400,), closes=True)
    yield Rule("9112 6.3", "one length twice", create(LENGTH, LENGTH), (400,), closes=True)
    none = request(b"POST", TASKS, TOKEN)
    yield Rule("9112 6.3", "no length is no body", none, (400,))
    yield Rule("9110 9.3.1", "a body of GET", request(b"GET", TASKS, TOKEN, LENGTH, body=BODY), (400,))
    yield Rule("9110 9.3.2", "a body of HEAD", request(b"HEAD", TASKS, TOKEN, LENGTH, body=BODY), (400,))
    yield Rule("9110 9.3.7", "a body of OPTIONS", request(b"OPTIONS", TASKS, LENGTH, body=BODY), (204,))
    empty = request(b"GET", b"/healthz", b"Content-Length: 0")
    yield Rule("9110 8.6", "an empty body of GET", empty, (200,))
    early = create(b"Content-Length: 2", body=b"{}" + get())
    yield Rule("9112 6.3", "what follows the length is the next request", early, (400, 200))


def codings() -> Iterator[Rule]:
    """Yields rules of Transfer-Encoding."""
    for value in (b" chunked", b" Chunked", b"chunked \t"):
        yield Rule("9112 7.1", f"coding {value!r}", create(b"Transfer-Encoding:" + value, body=CHUNKS), (202,))
    for lines, status in (
        ([b"gzip, chunked"], 501),
        ([b"gzip", b"chunked"], 501),
        ([b"identity, chunked"], 501),
        ([b"gzip"], 400),
        ([b"identity"], 400),
        ([b"chunked, gzip"], 400),
        ([b"chunked", b"gzip"], 400),
        ([b"chunked, chunked"], 400),
        ([b"chunked", b"chunked"], 400),
        ([b""], 400),
        ([b",chunked"], 400),
        ([b"chunked,"], 400),
        ([b"xchunked"], 400),
        ([b"chunked;q=1"], 400),
        ([b'"chunked"'], 400),
        ([b"\x0bchunked"], 400),
    ):
        framing = [b"Transfer-Encoding: " + value for value in lines]
        yield Rule("9112 6.1", f"codings {lines}", create(*framing, body=CHUNKS), (status,), closes=True)
    for framing in ([CHUNKED, LENGTH], [LENGTH, CHUNKED]):
        yield Rule("9112 6.1", f"coding and length {framing}", create(*framing, body=CHUNKS), (400,), closes=True)
    hidden = create(b"Transfer-Encoding : chunked", LENGTH)
    yield Rule("9112 5.1", "a coding hidden by white space", hidden, (400,), closes=True)
    folded = create(b"Transfer-Encoding:\r\n chunked", LENGTH)
    yield Rule("9112 5.2", "a coding hidden by a fold", folded, (400,), closes=True)
    old = request(b"POST", TASKS, TOKEN, CHUNKED, version=b"HTTP/1.0", body=CHUNKS)
    yield Rule("9112 6.1", "HTTP/1.0 has no codings", old, (400,), closes=True)


def chunks() -> Iterator[Rule]:
    """Yields rules of chunks and trailers."""
    size, half = len(BODY), len(BODY) // 2
    end = b"0\r\n\r\n"
    for name, body in (
        ("two", b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (half, BODY[:half], size - half, BODY[half:])),
        ("one byte each", b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + end),
        ("leading zeros", b"000%x\r\n%b\r\n000\r\n\r\n" % (size, BODY)),
        ("an extension", b"%x;a=b\r\n%b\r\n0;c\r\n\r\n" % (size, BODY)),
        ("extensions with white space", b'%x ; a = "b;c" ; d\r\n%b\r\n0\r\n\r\n' % (size, BODY)),
        ("a trailer", b"%x\r\n%b\r\n0\r\nX-T: y\r\n\r\n" % (size, BODY)),
        ("trailers that frame", b"%x\r\n%b\r\n0\r\nContent-Length: 9\r\nHost: x\r\n\r\n" % (size, BODY)),
    ):
        yield Rule("9112 7.1", f"chunks: {name}", create(CHUNKED, body=body), (202,))
    yield Rule(
        "9112 7.1",
        "letters of a size in both cases",
        create(CHUNKED, body=b"1A\r\n%b\r\n1a\r\n%b\r\n0\r\n\r\n" % (BODY.ljust(26), b" " * 26)),
        (202,),
    )
    yield Rule("9112 7.1", "no chunk is an empty body", create(CHUNKED, body=end), (400,))
    for name, body in (
        ("no size", b"\r\n" + end),
        ("a size in other digits", b"zz\r\n"),
        ("a negative size", b"-1\r\n"),
        ("a prefixed size", b"0x13\r\n"),
        ("white space before a size", b" 13\r\n"),
        ("white space behind a size", b"13 \r\n"),
        ("a size that overflows", b"fffffffffffffffff\r\n"),
        ("a chunk that is longer", b"2\r\n{}x\r\n" + end),
        ("a chunk without its end", b"2\r\n{}" + end),
        ("a line feed alone behind a size", b"2\n{}\r\n" + end),
        ("a line feed alone behind a chunk", b"2\r\n{}\n" + end),
        ("a carriage return alone in an extension", b"2;a\rb\r\n{}\r\n" + end),
        ("a line feed alone in an extension", b"2;a\nb\r\n{}\r\n" + end),
        ("a control in an extension", b"2;a\x00b\r\n{}\r\n" + end),
        ("an extension without end", b"2;" + b"x" * 8_192),
        ("a trailer without colon", b"2\r\n{}\r\n0\r\nX\r\n\r\n"),
        ("a trailer with a fold", b"2\r\n{}\r\n0\r\nX: y\r\n z\r\n\r\n"),
        ("a trailer with a line feed alone", b"2\r\n{}\r\n0\r\nX: y\n\r\n\r\n"),
        ("chunks of next to nothing", b"1;" + b"x" * 2_000 + b"\r\n " * 40),
        ("many tiny chunks", b"1\r\n \r\n" * 20_000),
    ):
        yield Rule("9112 7.1", f"chunks: {name}", create(CHUNKED, body=body), (400,), closes=True)
    large = b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * (HEADERS_MAX + 1) + b"\r\n"
    yield Rule("6585 5", "too many trailers", create(CHUNKED, body=large), (431,), closes=True)
    behind = create(CHUNKED, body=CHUNKS + get(b"X-Request-Id: own"))
    yield Rule("9112 7.1", "what follows chunks is the next request", behind, (202, 200), shows={"x-request-id": "own"})


def expectations() -> Iterator[Rule]:
    """Yields rules of Expect; `test_http_connections` tests that a waiting body gets 100 Continue."""
    wish = b"Expect: 100-continue"
    yield Rule("9110 10.1.1", "no 100 without a body", get(wish), (200,))
    yield Rule(
        "9110 10.1.1", "no 100 for a body of no bytes", request(b"GET", b"/healthz", wish, b"Content-Length: 0"), (200,)
    )
    old = request(b"POST", TASKS, TOKEN, LENGTH, wish, version=b"HTTP/1.0", body=BODY)
    yield Rule("9110 10.1.1", "no 100 for HTTP/1.0", old, (202,), closes=True)
    for value in (b"200-ok", b"100-continue, x", b"100", b""):
        yield Rule("9110 10.1.1", f"expectation {value!r}", create(LENGTH, b"Expect: " + value), (417,), closes=True)
    yield Rule("9110 10.1.1", "an expectation twice", create(LENGTH, wish, wish), (400,), closes=True)
    for name, refused, status in (
        ("too large", create(b"Content-Length: 99999999", wish, body=b""), 413),
        ("of another type", create(LENGTH, wish, b"Content-Type: text/plain", body=b""), 400),
        ("of no route", request(b"POST", b"/nowhere", LENGTH, wish), 404),
        ("of a method that is not there", request(b"PUT", TASKS, LENGTH, wish), 405),
    ):
        yield Rule("9110 10.1.1", f"no 100 for a body {name}", refused, (status,), closes=True)
