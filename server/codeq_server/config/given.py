"""Values given by the operator, with their origin, and the errors and warnings that name it."""

from __future__ import annotations

from dataclasses import dataclass, replace


class ConfigError(Exception):
    """The configuration is invalid.

    Attributes:
        key: The setting as the operator wrote it: a variable, a flag or the path of a key in the file.
        message: What is wrong, in one line and without secrets.
    """

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        self.message = " ".join(message.split())
        super().__init__(f"{key}: {self.message}")


@dataclass(frozen=True, slots=True)
class Note:
    """A warning about a setting that does not prevent startup.

    Attributes:
        key: The setting, or several, as the operator wrote it.
        message: The warning, in one line and without secrets.
    """

    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Given:
    """A value from the file, the environment or a flag.

    Attributes:
        value: The value as given.
        key: The setting as the operator wrote it.
        is_text: Whether the source holds only text, so that "8080" is accepted as a number.
        file: The configuration file it is from; empty: another source.
    """

    value: object
    key: str
    is_text: bool = False
    file: str = ""

    def inner(self, key: str, value: object) -> Given:
        """Returns a value inside this one, with the path of its key."""
        return replace(self, value=value, key=f"{self.key}.{key}", is_text=False)

    def error(self, message: str) -> ConfigError:
        """Returns an error that names the setting and, if it is from the file, the file."""
        return ConfigError(self.key, f"{message} (in {self.file})" if self.file else message)
