"""Files of TLS: when a changed set is taken over, and when it is reported."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from authority import Authority, Files, replace
from codeq_server.config import ListenerTls
from codeq_server.node.certificates import FILE_BYTES_MAX, Identity, PemFiles, listener_files


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    return authority.files(tmp_path)


@pytest.fixture
def watched(files: Files) -> PemFiles[Identity]:
    return listener_files(ListenerTls("tls_cert_file", files.certificate, files.key, None, requires_client=False))


def looks(watched: PemFiles[Identity], count: int = 3) -> list[str | None]:
    return [watched.look() for _ in range(count)]


def test_unchanged_and_rewritten_files_are_no_news(watched: PemFiles[Identity], files: Files) -> None:
    before = watched.value
    assert looks(watched) == [None] * 3
    replace(files.certificate, files.certificate.read_bytes())
    os.utime(files.key)
    assert looks(watched) == [None] * 3
    assert watched.value is before
    assert watched.reloads == 0


def test_changed_pair_is_taken_over_at_the_next_look(
    watched: PemFiles[Identity], files: Files, authority: Authority
) -> None:
    before = watched.value
    files.write(authority.sign())
    assert looks(watched) == ["", None, None]
    assert watched.value.context is not before.context
    assert watched.value.pair is not before.pair


def test_pair_that_is_replaced_file_by_file_is_not_reported(
    watched: PemFiles[Identity], files: Files, authority: Authority
) -> None:
    fresh = authority.sign()
    replace(files.certificate, fresh.certificate)
    assert watched.look() is None
    replace(files.key, fresh.key)
    assert looks(watched) == ["", None, None]
    assert watched.rejections == 0


def test_files_that_stay_unusable_are_reported_once_per_contents(
    watched: PemFiles[Identity], files: Files, authority: Authority
) -> None:
    before, pair = watched.value, (files.certificate.read_bytes(), files.key.read_bytes())
    replace(files.certificate, authority.sign().certificate)
    first, second, third = looks(watched)
    assert (first, third) == (None, None)
    assert second is not None
    assert second.startswith(f"{files.certificate} and {files.key} are not a certificate and its key")
    os.utime(files.certificate)
    assert looks(watched) == [None] * 3
    replace(files.certificate, b"?")
    assert [each is not None for each in looks(watched)] == [False, True, False]
    replace(files.certificate, pair[0])
    assert looks(watched) == ["", None, None]
    assert watched.value is before
    assert (watched.reloads, watched.rejections) == (0, 2)
    replace(files.certificate, b"?")
    assert [each is not None for each in looks(watched)] == [False, True, False]


@pytest.mark.parametrize("content", [b"", b"x" * (FILE_BYTES_MAX + 1), b"-----BEGIN CERTIFICATE-----", b"\0\xff"])
def test_file_that_is_no_certificate_is_named_and_its_contents_are_not(
    watched: PemFiles[Identity], files: Files, content: bytes
) -> None:
    replace(files.certificate, content)
    reason = looks(watched)[1]
    assert reason is not None
    assert str(files.certificate) in reason
    assert "xxx" not in reason


def test_report_names_the_setting_of_the_file_that_is_wrong(watched: PemFiles[Identity], files: Files) -> None:
    replace(files.key, b"?")
    assert looks(watched)[1] == f"{files.key} contains no private key in PEM"
    assert watched.setting == "tls_key_file"


def test_key_with_a_password_is_rejected_without_asking_for_one(watched: PemFiles[Identity], files: Files) -> None:
    replace(files.key, b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")
    assert looks(watched)[1] is not None


def test_contexts_speak_nothing_older_than_tls_1_2(watched: PemFiles[Identity]) -> None:
    context = watched.value.context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert not [each for each in context.get_ciphers() if "NULL" in each["name"] or "anon" in each["description"]]
