"""The guard of addresses: notations that lead to internal networks, and how the operator allows some."""

from __future__ import annotations

import pytest
from codeq_server.config import load
from codeq_server.webhooks.guard import URL_BYTES_MAX, Guard, RefusedAddressError, guard_of, host_of

WORKER = '{"token":"worker-0123456789","scopes":["codeq:claim"],"eventTypes":["*"]}'


def guard(*, dev: bool = False, **variables: str) -> Guard:
    variables |= {"PRODUCER_AUTH_PROVIDER": "static", "PRODUCER_AUTH_CONFIG": '{"token":"producer-0123456789"}'}
    variables |= {"WORKER_AUTH_PROVIDER": "static", "WORKER_AUTH_CONFIG": WORKER}
    return guard_of(load(None, variables, {}, dev=dev))


REFUSED_HOSTS = [
    "0.0.0.0",
    "0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.254",
    "100.100.100.200",
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "0X7F.1",
    "0177.0.0.1",
    "0177.1",
    "017700000001",
    "127.0.0.1.",
    "127.0.0.01",
    "127.0.0.0x1",
    "0x7f.0.0.1",
    "3232235777",
    "0xa9fea9fe",
    "2852039166",
    "169.254.169.254",
    "169.254.170.2",
    "0251.0376.0251.0376",
    "168.63.129.16",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.257",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "4294967295",
    "1.2.3.4.5",
    "256.256.256.256",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[0:0:0:0:0:ffff:c0a8:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::1]",
    "[100::1]",
    "[2001::1]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[2001:2::1]",
    "[2001:10::1]",
    "[2001:db8::1]",
    "[2002:7f00:1::]",
    "[2002:808:808::1]",
    "[3fff::1]",
    "[3ffe::1]",
    "[5f00::1]",
    "[4000::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fec0::1]",
    "[ff02::1]",
    "[ff0e::1]",
    "[::ffff:127.0.0.1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "%31%32%37.0.0.1",
    "hooks.example\\@127.0.0.1",
    "hooks.example@127.0.0.1",
    "user:password@hooks.example",
    "hooks .example",
    "hooks.example\t",
    "-hooks.example",
    "hooks..example",
    "",
]


def test_sixty_notations_and_more_are_listed() -> None:
    assert len(REFUSED_HOSTS) == len(set(REFUSED_HOSTS)) >= 60


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_url_that_leads_to_an_internal_network_is_refused(host: str) -> None:
    for url in (f"http://{host}/hook", f"https://{host}:8443/hook?a=b"):
        assert guard().check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example",
        "https://hooks.example/a/b?c=%20d#e",
        "HTTP://Hooks.Example:8080/",
        "https://8.8.8.8/",
        "https://1.1.1.1:8443/",
        "https://[2606:4700:4700::1111]/hook",
        "https://[::ffff:8.8.8.8]/",
        "https://[64:ff9b::808:808]/",
        "http://hooks.example./",
        "http://xn--bcher-kva.example:1024/",
        "http://a_b.example/",
        "http://10.example/",
    ],
)
def test_url_of_a_public_address_or_a_name_is_accepted(url: str) -> None:
    assert guard().check_url(url) == ""


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://hooks.example/", "must be an http:// or https:// URL"),
        ("hooks.example/a", "must be an http:// or https:// URL"),
        ("http:///a", "must be an http:// or https:// URL"),
        ("http://hooks.example:x/", "must be an http:// or https:// URL"),
        ("http://hooks.example:22/", "must not use port 22"),
        ("http://hooks.example:0/", "must not use port 0"),
        ("http://hooks.example/" + "a" * URL_BYTES_MAX, f"must have at most {URL_BYTES_MAX} bytes"),
        ("http://10.0.0.1/", "refused address 10.0.0.1 (private)"),
        ("http://127.1/", "must write an IPv4 address as four decimal numbers"),
    ],
)
def test_problem_of_a_url_says_what_must_be_changed(url: str, problem: str) -> None:
    assert problem in guard().check_url(url)


def test_problem_of_an_embedded_address_names_both() -> None:
    problem = guard().check_address("64:ff9b::a9fe:a9fe")
    assert problem == "refused address 64:ff9b::a9fe:a9fe (NAT64 of 169.254.169.254, link-local)"


def test_operator_allows_networks_hosts_and_ports() -> None:
    open_guard = guard(
        WEBHOOK_ALLOWED_NETWORKS="10.1.0.0/16,fd00::/8",
        WEBHOOK_ALLOWED_HOSTS="hooks.internal,*.svc.internal",
        WEBHOOK_ALLOWED_PORTS="443,9000-9010",
    )
    assert open_guard.check_url("https://10.1.2.3/") == open_guard.check_url("https://[::ffff:10.1.2.3]:9010/") == ""
    assert open_guard.check_address("fd00::1") == ""
    assert open_guard.check_url("https://10.2.0.1/")
    assert open_guard.check_url("http://hooks.internal/") == "must not use port 80"
    assert [open_guard.trusts(host) for host in ("Hooks.Internal.", "a.svc.internal", "svc.internal", "evil")] == [
        True,
        True,
        False,
        False,
    ]


def test_https_can_be_required() -> None:
    strict = guard(WEBHOOK_REQUIRE_HTTPS="true")
    assert strict.check_url("http://hooks.example/") == "must be an https:// URL"
    assert strict.check_url("https://hooks.example/") == ""


def test_development_allows_loopback_with_any_port_and_nothing_else_internal() -> None:
    dev = guard(dev=True)
    for url in ("http://127.0.0.1:5/", "http://127.3.2.1:80/", "http://[::1]:65535/", "http://[::ffff:127.0.0.1]/"):
        assert dev.check_url(url) == ""
    for url in ("http://10.0.0.1/", "http://169.254.169.254/", "http://127.1/", "http://2130706433/"):
        assert dev.check_url(url)


def test_name_with_one_internal_address_among_public_ones_is_refused() -> None:
    guard().check_addresses(["8.8.8.8", "2606:4700::1111"])
    with pytest.raises(RefusedAddressError, match=r"10\.0\.0\.7 \(private\)"):
        guard().check_addresses(["8.8.8.8", "10.0.0.7"])


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Hooks.example.com/x", "hooks.example.com:443"),
        ("http://hooks.example.com:8080", "hooks.example.com:8080"),
        ("http://[2600::1]/x", "[2600::1]:80"),
        ("https://[2600:0:0::0001]:8443/x", "[2600::1]:8443"),
    ],
)
def test_host_is_named_as_in_urls(url: str, host: str) -> None:
    assert host_of(url) == host
