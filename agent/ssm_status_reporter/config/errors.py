"""What is wrong with a configuration: values for each finding, and the exception that carries them all."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConfigurationError:
    """One thing wrong, as an administrator needs it. ``key`` is a path such as ``delivery.backoff.initial``.

    ``key`` is empty when the file as a whole is at fault. Lines and columns count from 1; both are None
    when the fault has no place in the file.
    """

    key: str
    reason: str
    hint: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        subject = f"{self.key}: " if self.key else ""
        return f"{subject}{self.reason}" + (f" ({self.hint})" if self.hint else "")


class BadConfiguration(Exception):  # noqa: N818 - it is a state of the file with several errors in it, not one error
    """The configuration cannot be used. ``errors`` holds everything that is wrong, in the file's order."""

    def __init__(self, name: str, errors: Iterable[ConfigurationError]) -> None:
        self.name = name
        self.errors = tuple(errors)
        super().__init__(name, self.errors)

    def __str__(self) -> str:
        """One line an error: ``FILE:LINE: key.path: reason (hint)``."""
        return "\n".join(
            f"{self.name}:{error.line}: {error}" if error.line else f"{self.name}: {error}"
            for error in self.errors
        )


class UnacceptableError(ValueError):
    """A value that a key does not take: why, and what to write instead."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        self.reason = reason
        self.hint = hint
        super().__init__(reason)
