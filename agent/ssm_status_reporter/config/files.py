"""Reading the configuration file, whatever stands at its path."""

import os
import stat
from pathlib import Path
from typing import Final

from ssm_status_reporter.config.errors import BadConfiguration, ConfigurationError
from ssm_status_reporter.config.reading import parse
from ssm_status_reporter.config.schema import DEFAULT_PATH, Configuration

FILE_BYTES_MAX: Final = 256 * 1024
"""Of a configuration file; one with every key and its comment has some 8 KiB."""


def load(path: Path) -> Configuration:
    """The configuration in the file at ``path``. Raises `BadConfiguration`, also when there is no file."""
    return parse(_text(path), str(path))


def load_or_default(path: Path | None, default_path: Path = DEFAULT_PATH) -> Configuration:
    """As `load`; where nobody named a path, the file at ``default_path``, and without one the defaults.

    Raises `BadConfiguration`. A link to nowhere is a mistake, not an absence.
    """
    if path is not None:
        return load(path)
    return load(default_path) if is_there(default_path) else Configuration()


def is_there(path: Path) -> bool:
    """Whether something has that name, readable or not."""
    return os.path.lexists(path)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise BadConfiguration(str(path), [_unreadable(path, error)]) from error
    if len(data) > FILE_BYTES_MAX:
        raise _bad(path, f"larger than {FILE_BYTES_MAX // 1024} KiB", "is this the right file?")
    try:
        return data.decode()  # PyYAML passes over a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _bad(path, f"not UTF-8: byte 0x{data[error.start]:02x}", "save it as UTF-8", line) from error


def _bad(path: Path, reason: str, hint: str | None, line: int | None = None) -> BadConfiguration:
    return BadConfiguration(str(path), [ConfigurationError("", reason, hint, line)])


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    match error:
        case FileNotFoundError():
            if path.is_symlink():
                return ConfigurationError("", f"a link to {path.readlink()}, which does not exist")
            return ConfigurationError("", "no such file", "name an existing one with --config, or write one there")
        case IsADirectoryError():
            return ConfigurationError("", "a directory, not a file", f"did you mean {path / 'config.yaml'}?")
        case PermissionError():
            return ConfigurationError("", f"not readable by user id {os.geteuid()}: {_permissions(path)}", _REMEDY)
    return ConfigurationError("", f"not readable: {error.strerror}")


_REMEDY: Final = "chgrp ssm-status-reporter and chmod 640 would let the daemon read it"


def _permissions(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "a directory above it may not be searched"
    return f"its mode is {stat.S_IMODE(status.st_mode):04o}, its owner {status.st_uid}:{status.st_gid}"
