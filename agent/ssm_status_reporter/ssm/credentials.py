"""The keys a call is signed with: the SDK's default chain, loaded again whenever that could help.

The SDK reads a shared credentials file once and never again; the SSM Agent writes new temporary keys into it about
every 30 minutes, in place, truncating first.

Rules:
  * A fresh session loads: whenever the service refused the keys, and whenever the shared file is another than the
    one read (one ``stat`` a call). Concurrent loads are one.
  * What a torn read yields (no keys, half of them, temporary keys without their token, or the next link of the
    chain although the file is there) is not taken: the old keys stay, and the finished file is another again.
  * Keys that expire (instance role, container, assumed role) are renewed by the SDK itself, ahead of time.
  * No keys at all is an answer, `NoKeysError`, not a reason to stop: the next call looks again.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError

from ssm_status_reporter.ssm.text import plain

SHARED_FILE_METHOD: Final = "shared-credentials-file"
TEMPORARY_KEY_PREFIX: Final = "ASIA"
"""Access keys that are valid only together with a session token."""

log = structlog.get_logger()


class NoKeysError(Exception):
    """No keys can be had: ``code`` names the kind, the text says what was found."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class Origin:
    """Where keys come from, by the SDK's name for it, and when they expire; None: never, or nobody knows."""

    method: str
    expires_at_ms: int | None


class _Version(NamedTuple):
    """What tells one content of a file from another."""

    inode: int
    size: int
    mtime_ns: int


def shared_file() -> Path:
    """Where the SDK looks for the shared credentials file."""
    return _expanded(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")


def configuration_file() -> Path:
    """Where the SDK looks for its configuration file, which may hold keys too."""
    return _expanded(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config")


def _expanded(path: str) -> Path:
    """As the SDK does it: a user without a home has no such file, which is no error."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises then)


class Credentials:
    """The keys of one profile, or of the default chain."""

    def __init__(self, profile: str | None) -> None:
        self._profile = profile
        self._file = str(shared_file())
        self._loading = asyncio.Lock()
        self._loaded: Any = None
        self._version: _Version | None = None
        self._refused = False

    def refuse(self) -> None:
        """Do not trust the keys in use any more: the next :meth:`keys` loads afresh."""
        self._refused = True

    async def keys(self) -> Any:
        """The SDK's frozen credentials (access_key, secret_key, token), valid now.

        Raises:
            NoKeysError: there are none, or they cannot be read or renewed.
        """
        if self._outdated():
            async with self._loading:
                if self._outdated():
                    await self._load()
        try:
            keys = await self._loaded.get_frozen_credentials()
        except SDK_FAILURES as error:
            raise _no_keys(error) from error
        if not _are_texts(keys):
            raise NoKeysError("MalformedCredentials", f"the keys given by {self._loaded.method} are no texts")
        return keys

    async def origin(self) -> Origin:
        """Where the keys come from, and until when they hold; loads and raises as :meth:`keys` does."""
        await self.keys()
        # botocore has no public name for it; keys that do not expire have no such attribute.
        expires_at = getattr(self._loaded, "_expiry_time", None)
        return Origin(self._loaded.method, None if expires_at is None else round(expires_at.timestamp() * 1000))

    def _outdated(self) -> bool:
        if self._loaded is None or self._refused:
            return True
        return self._loaded.method == SHARED_FILE_METHOD and self._version != self._version_now()

    def _version_now(self) -> _Version | None:
        try:
            found = os.stat(self._file)  # noqa: PTH116  # once a call: Path.stat costs twice as much
        except OSError:
            return None
        return _Version(found.st_ino, found.st_size, found.st_mtime_ns)

    async def _load(self) -> None:
        # Read before the content: what is written meanwhile differs from this at the next call.
        version = self._version_now()
        try:
            found = await AioSession(profile=self._profile).get_credentials()
            torn = await self._torn(found, version)
        except SDK_FAILURES as error:
            if self._loaded is None:
                raise _no_keys(error) from error
            found, torn = None, plain(str(error))
        if torn is None:
            log.info("credentials loaded", method=found.method)
            self._loaded = found
        elif self._loaded is None:
            raise NoKeysError("NoCredentials", torn)
        else:
            log.warning("credentials kept, for nothing better was found", found=torn, method=self._loaded.method)
        self._version = version
        self._refused = False

    async def _torn(self, found: Any, version: _Version | None) -> str | None:
        """What is wrong with what was loaded, or None."""
        if found is None:
            return "the SDK's credentials chain has none"
        if self._loaded is not None and self._loaded.method == SHARED_FILE_METHOD != found.method and version:
            return "no credentials in the shared credentials file"
        if found.method == SHARED_FILE_METHOD:
            keys = await found.get_frozen_credentials()
            if keys.access_key.startswith(TEMPORARY_KEY_PREFIX) and not keys.token:
                return "temporary keys without a session token"
        return None


SDK_FAILURES: Final = (
    *(BotoCoreError, ClientError, OSError, RuntimeError),
    *(ValueError, KeyError, TypeError, AttributeError),
)
"""What the SDK raises for what it finds: its own errors, a role that may not be assumed, an unreadable file, keys
renewed and expired nevertheless; and what comes of values that it takes as they are: a metadata service that answers
nonsense, an empty value or a section where its configuration file should have a text."""


def _are_texts(keys: Any) -> bool:
    """Whether they can be signed with: the SDK hands on whatever a metadata service gives."""
    try:
        for part in (keys.access_key, keys.secret_key, keys.token or ""):
            part.encode()
    except (AttributeError, UnicodeEncodeError):
        return False
    return True


_EXPIRED: Final = (
    "the keys that were renewed just now have expired already, by this machine's clock: set it right (`timedatectl`), "
    "or look at what renews them"
)


def _no_keys(error: Exception) -> NoKeysError:
    if isinstance(error, RuntimeError) and "expired" in str(error):  # the SDK has no type of its own for it
        return NoKeysError("CredentialsExpired", _EXPIRED)
    if isinstance(error, ClientError):
        return NoKeysError(
            plain(str(error.response.get("Error", {}).get("Code", "ClientError"))), plain(str(error))
        )
    code = type(error).__name__.removesuffix("Error") if isinstance(error, BotoCoreError) else "Credentials"
    return NoKeysError(code, plain(f"{type(error).__name__}: {error}"))
