"""Settings of the client commands, from flags, the environment, the profile file or defaults, in that order.

The profile file has top-level settings and, under `profiles`, named sets of settings. It holds tokens, so only its
owner can read it, and it is replaced atomically.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from codeq_cli import new_files
from codeq_cli.failures import configuration_failure

ENVIRONMENT: Final = {
    "endpoint": "CODEQ_ENDPOINT",
    "token": "CODEQ_TOKEN",
    "worker-token": "CODEQ_WORKER_TOKEN",
}
"""Environment variable of each setting. An empty variable counts as not set."""

KEYS: Final = tuple(ENVIRONMENT)
"""Settings of a profile. Worker calls use `worker-token`, or `token` if it is not set."""

PROFILE_VARIABLE: Final = "CODEQ_PROFILE"
"""Environment variable that names the profile to use."""

DEFAULT_ENDPOINT: Final = "http://localhost:8080"

ENDPOINTS_MAX: Final = 16
"""Maximum endpoints in one setting."""

FILE_BYTES_MAX: Final = 65536
"""Largest profile file accepted, in bytes."""

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_PROFILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Setting:
    """An effective setting.

    Attributes:
        value: Its value; None: not set anywhere.
        source: Origin of the value: "flag", the name of the environment variable, the path of the file, or "default".
    """

    value: str | None
    source: str


def file_path() -> Path:
    """Returns the path of the profile file, in $CODEQ_CONFIG_DIR or ~/.codeq."""
    folder = os.environ.get("CODEQ_CONFIG_DIR")
    return (Path(folder) if folder else Path.home() / ".codeq") / "config.yaml"


def chosen(given: str | None) -> str | None:
    """Returns the name of the profile given as an option, else of that in the environment; None: the top level."""
    return given or os.environ.get(PROFILE_VARIABLE) or None


def resolve(flags: Mapping[str, str | None], profile: str | None = None) -> dict[str, Setting]:
    """Returns every setting with its source.

    Args:
        flags: Settings given as options.
        profile: Profile given as an option; its settings override environment variables. None: the profile that the
            environment names, whose settings are overridden by environment variables, or the top-level settings.

    Raises:
        Failure: The profile file is unusable, the profile does not exist, or a value is malformed.
    """
    named = chosen(profile)
    stored: dict[str, str] | None = None if named is None else load(named)
    settings = {}
    for key in KEYS:
        if (flag := flags.get(key)) is not None:
            setting = Setting(flag, "flag")
        elif profile and stored is not None and key in stored:
            setting = Setting(stored[key], _source(named))
        elif from_environment := os.environ.get(ENVIRONMENT[key]):
            setting = Setting(from_environment, ENVIRONMENT[key])
        else:
            stored = load() if stored is None else stored
            setting = _stored_or_default(key, stored, named)
        if setting.value is not None:
            check(key, setting.value, setting.source)
        settings[key] = setting
    return settings


def _stored_or_default(key: str, stored: Mapping[str, str], profile: str | None) -> Setting:
    if key in stored:
        return Setting(stored[key], _source(profile))
    return Setting(DEFAULT_ENDPOINT if key == "endpoint" else None, "default")


def _source(profile: str | None) -> str:
    return f"{file_path()}" if profile is None else f"{file_path()}, profile {profile}"


def endpoints(value: str) -> tuple[str, ...]:
    """Returns the URLs in a value of the setting `endpoint`."""
    return tuple(part.strip() for part in value.split(","))


def check(key: str, value: str, source: str) -> None:
    """Checks a value.

    Raises:
        Failure: The value is malformed; the message names key and source, and never shows a token.
    """
    if key != "endpoint":
        if not _TOKEN.fullmatch(value):
            raise configuration_failure(f"{key} ({source}): must be printable ASCII without spaces")
        return
    if len(endpoints(value)) > ENDPOINTS_MAX:
        raise configuration_failure(f"endpoint ({source}): more than {ENDPOINTS_MAX} URLs")
    for url in endpoints(value):
        if not _is_endpoint(url):
            raise configuration_failure(
                f"endpoint ({source}): {url!r} is not a URL such as {DEFAULT_ENDPOINT}, without user, query or fragment"
            )


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        plain = parts.username is None and not parts.query and not parts.fragment and url.isprintable()
    except ValueError:
        return False
    return usable and plain and " " not in url


def load(profile: str | None = None) -> dict[str, str]:
    """Returns settings of the profile file; an empty dict if there is no file.

    Args:
        profile: Name of the profile; None: the top-level settings.

    Raises:
        Failure: The file cannot be read, is not YAML, has an unknown key or a value that is not text, or lacks the
            profile.
    """
    document = _document()
    if profile is None:
        return {key: value for key, value in document.items() if isinstance(value, str)}
    profiles = _profiles(document)
    if profile not in profiles:
        known = f"; it has {', '.join(sorted(profiles))}" if profiles else ""
        raise configuration_failure(f"{file_path()}: no profile {profile!r}{known}")
    return profiles[profile]


def stored(profile: str | None) -> dict[str, str]:
    """Returns settings of the profile file like `load`; empty if there is no such profile.

    Raises:
        Failure: The profile file is unusable.
    """
    return load() if profile is None else _profiles(_document()).get(profile, {})


def _profiles(document: Mapping[str, object]) -> dict[str, dict[str, str]]:
    profiles = document.get("profiles", {})
    assert isinstance(profiles, dict)
    return profiles


def _document() -> dict[str, object]:
    """Returns the checked content of the profile file; empty if there is no file."""
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
    import yaml

    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise configuration_failure(f"{path}: not a YAML file") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise configuration_failure(f"{path}: not a mapping of keys to values")
    profiles = document.get("profiles", {})
    if not isinstance(profiles, dict):
        raise configuration_failure(f"{path}: profiles is not a mapping of names to settings")
    _check_settings({key: value for key, value in document.items() if key != "profiles"}, f"{path}")
    for name, settings in profiles.items():
        if not isinstance(name, str) or not isinstance(settings, dict):
            raise configuration_failure(f"{path}: profiles: {name!r} is not a mapping of keys to values")
        _check_settings(settings, f"{path}: profile {name!r}")
    return document


def _check_settings(settings: Mapping[object, object], place: str) -> None:
    for key, value in settings.items():
        if key not in KEYS:
            raise configuration_failure(f"{place}: unknown key {key!r}")
        if not isinstance(value, str):
            raise configuration_failure(f"{place}: {key} must be text")


def check_writable(profile: str | None) -> None:
    """Checks that settings can be stored.

    Raises:
        Failure: The profile's name is malformed, or the file cannot be read or replaced.
    """
    _check_name(profile)
    _document()
    path = file_path()
    try:
        with tempfile.TemporaryFile(dir=_target(path).parent):
            pass
    except OSError as error:
        raise configuration_failure(f"{path}: {error.strerror}") from None


def store(values: Mapping[str, str], profile: str | None = None) -> Path:
    """Writes settings into the profile file, atomically and durably; an empty value removes a setting.

    If the file is a symbolic link, the file that it leads to is replaced.

    Args:
        values: Values by setting.
        profile: Profile to change, created if it does not exist; None: the top-level settings.

    Returns:
        The path of the file.

    Raises:
        Failure: A value or the profile's name is malformed, or the file cannot be read or written.
    """
    import yaml

    for key, value in values.items():
        if value:
            check(key, value, "argument")
    _check_name(profile)
    path = file_path()
    document = _document()
    profiles = {name: dict(settings) for name, settings in _profiles(document).items()}
    content: dict[str, object] = {name: text for name, text in document.items() if name != "profiles"}
    settings: dict[str, Any] = content if profile is None else profiles.setdefault(profile, {})
    for key, value in values.items():
        settings.pop(key, None)
        if value:
            settings[key] = value
    kept = {name: settings for name, settings in profiles.items() if settings}
    if kept:
        content["profiles"] = kept
    text = yaml.safe_dump(content, sort_keys=True) if content else ""
    try:
        new_files.replace(_target(path), text.encode(), private=True)
    except OSError as error:
        raise configuration_failure(f"{path}: {error.strerror}") from None
    return path


def _check_name(profile: str | None) -> None:
    if profile is not None and not _PROFILE.fullmatch(profile):
        raise configuration_failure(
            f"profile {profile!r}: use 1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
        )


def _target(path: Path) -> Path:
    """Returns the file to replace, whose folder exists: `path`, or where that leads to.

    Raises:
        OSError: The folder cannot be made.
    """
    target = path.resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return target
