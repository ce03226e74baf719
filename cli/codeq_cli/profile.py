"""The settings of the client commands: flag, then environment, then profile file, then default.

The profile file holds a token, so it is readable by its owner alone, and it is replaced as a whole, never half written.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from codeq_cli.failures import configuration_failure

KEYS: Final = ("endpoint", "token")
"""Keys of the profile file."""

ENVIRONMENT: Final = {"endpoint": "CODEQ_ENDPOINT", "token": "CODEQ_TOKEN"}
"""Environment variable of each key. An empty one counts as not set."""

DEFAULT_ENDPOINT: Final = "http://localhost:8080"

FILE_BYTES_MAX: Final = 65536
"""Bound of the profile file in bytes; a larger one is refused."""

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in force.

    Attributes:
        value: Its value; None: not set anywhere.
        source: Where it is from: "flag", the name of the environment variable, the path of the file, or "default".
    """

    value: str | None
    source: str


def file_path() -> Path:
    """Returns the path of the profile file, in $CODEQ_CONFIG_DIR or ~/.codeq."""
    folder = os.environ.get("CODEQ_CONFIG_DIR")
    return (Path(folder) if folder else Path.home() / ".codeq") / "config.yaml"


def resolve(flags: Mapping[str, str | None]) -> dict[str, Setting]:
    """Returns every setting with its source.

    Raises:
        Failure: The profile file cannot be used, or a value is malformed.
    """
    stored: dict[str, str] | None = None
    settings = {}
    for key in KEYS:
        if (flag := flags.get(key)) is not None:
            setting = Setting(flag, "flag")
        elif from_environment := os.environ.get(ENVIRONMENT[key]):
            setting = Setting(from_environment, ENVIRONMENT[key])
        else:
            stored = load() if stored is None else stored
            setting = _stored_or_default(key, stored)
        if setting.value is not None:
            check(key, setting.value, setting.source)
        settings[key] = setting
    return settings


def _stored_or_default(key: str, stored: Mapping[str, str]) -> Setting:
    if key in stored:
        return Setting(stored[key], str(file_path()))
    return Setting(DEFAULT_ENDPOINT if key == "endpoint" else None, "default")


def check(key: str, value: str, source: str) -> None:
    """Checks a value.

    Raises:
        Failure: It is malformed; the text names key and source, and never shows a token.
    """
    if key == "token":
        if not _TOKEN.fullmatch(value):
            raise configuration_failure(f"token ({source}): must be printable ASCII without spaces")
        return
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        plain = parts.username is None and not parts.query and not parts.fragment and value.isprintable()
    except ValueError:
        usable = plain = False
    if not (usable and plain and " " not in value):
        raise configuration_failure(
            f"endpoint ({source}): {value!r} is not a URL such as {DEFAULT_ENDPOINT}, without user, query and fragment"
        )


def load() -> dict[str, str]:
    """Returns the content of the profile file; nothing where there is no file.

    Raises:
        Failure: It cannot be read, is not YAML, or has an unknown key or a value that is not text.
    """
    import yaml

    path = file_path()
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise configuration_failure(f"{path}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise configuration_failure(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise configuration_failure(f"{path}: not a YAML file") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise configuration_failure(f"{path}: not a mapping of keys to values")
    for key, value in document.items():
        if key not in KEYS:
            raise configuration_failure(f"{path}: unknown key {key!r}")
        if not isinstance(value, str):
            raise configuration_failure(f"{path}: {key} must be text")
    return document


def store(key: str, value: str) -> Path:
    """Writes one key into the profile file, atomically and durably; an empty value removes the key.

    Returns:
        The path of the file.

    Raises:
        Failure: The value is malformed, or the file cannot be read or written.
    """
    import yaml

    if value:
        check(key, value, "argument")
    path = file_path()
    content = load()
    content.pop(key, None)
    if value:
        content[key] = value
    text = yaml.safe_dump(content, sort_keys=True) if content else ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, text.encode())
    except OSError as error:
        raise configuration_failure(f"{path}: {error.strerror}") from None
    return path


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")  # mkstemp opens with mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
