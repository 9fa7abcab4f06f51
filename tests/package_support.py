"""A package of the distribution that a test needs: installed where that is ours to do, once, and never its service.

Ours it is for root on a Debian. Anywhere else, without a network, or beside another package manager at work for too
long, the test is skipped, and the reason says what to install.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import pytest

INSTALL_SECONDS_MAX: Final = 240
_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_PLACES: Final = "/usr/sbin:/usr/local/sbin:/sbin"
"""Where a program for administrators is, which no ordinary user's PATH names."""


def program(name: str, package: str) -> str:
    """The path of a program; installs the package that has it. Skips the test, saying why, where it cannot."""
    found = _found(name)
    if found is None:
        reason = _install(package)
        found = _found(name)
        if found is None:
            pytest.skip(f"no {name}: {reason or f'the package {package} does not have it'}")
    return found


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_PLACES}")


@cache
def _install(package: str) -> str | None:
    """Tries it once a run. Returns why it was not to be had; None when it is there."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"install the package {package} (only root on a Debian installs it by itself)"
    try:
        with _no_service_started():
            # What is known of the packages may do; a machine just made knows of none, an old one of old ones.
            if _apt("install", package) is None:
                return None
            return _apt("update") or _apt("install", package)
    except OSError as error:
        return f"{package} cannot be installed: {error}"


def _apt(command: str, *packages: str) -> str | None:
    """Returns why it failed."""
    options: Sequence[str] = () if command == "update" else ("-y", "--no-install-recommends")
    wait = f"DPkg::Lock::Timeout={INSTALL_SECONDS_MAX // 2}"
    try:
        done = subprocess.run(
            ["apt-get", "-qq", "-o", wait, command, *options, *packages],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"apt-get {command} takes too long"
    if done.returncode == 0:
        return None
    last = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()[-1]
    return f"apt-get {command}: {last}"


@contextmanager
def _no_service_started() -> Iterator[None]:
    """Debian's way to install a package without starting its service; what is there already stays in force."""
    try:
        with _POLICY.open("x") as file:
            file.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield
        return
    try:
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
