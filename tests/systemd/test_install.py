"""`make install` and the RPM package: what they put where, on what interpreter, and what they leave behind."""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from package_support import program
from service_support import (
    CHECKOUT,
    CONFIG,
    CONFIGURATION,
    GROUP,
    KEYS,
    SPOOL,
    STATE,
    UNIT,
    UNIT_FILE,
    Service,
    made,
    package,
    python_too_old,
)
from systemd_support import CommandFailedError, Machine, why_not

_NO_PYTHON: Final = python_too_old()
_NO_MACHINE: Final = why_not() or _NO_PYTHON
needs_python = pytest.mark.skipif(_NO_PYTHON is not None, reason=f"nothing to install on: {_NO_PYTHON}")
needs_machine = pytest.mark.skipif(_NO_MACHINE is not None, reason=f"no real systemd: {_NO_MACHINE}")

_COPIED: Final = "/srv/checkout"
_USER_ID: Final = 4242
"""Which the administrator of a fleet gave the service's user on every node."""
_LINK: Final = "/usr/local/bin/ssm-status-reporter"
_UNIT_FILE: Final = f"/usr/local/lib/systemd/system/{UNIT}"


@pytest.fixture
def _rpmbuild() -> None:
    """What makes an RPM package."""
    program("rpmbuild", "rpm")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with the checkout and its wheels on it."""
    made("build/wheels/requirements.txt")
    machine = Machine(tmp_path / "disk")
    try:
        for name in ("agent", "packaging", "systemd", "config", "requirements", "build/wheels"):
            shutil.copytree(CHECKOUT / name, machine.path(f"{_COPIED}/{name}"))
        for name in ("Makefile", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
            shutil.copy2(CHECKOUT / name, machine.path(f"{_COPIED}/{name}"))
        machine.run("touch", f"{_COPIED}/build/wheels/requirements.txt")
        yield machine
    finally:
        machine.close()
        assert machine.leftovers() == []


def _delivers(service: Service, document: str) -> None:
    service.machine.write("/root/.aws/credentials", KEYS, mode=0o600)
    service.control("restart")
    service.drop("result", document=document)
    assert service.arrived(document)


@needs_machine
def test_make_install_and_uninstall(machine: Machine) -> None:
    """One command installs a service that works, also while an image is built and nothing runs; another removes it.

    State stays unless told otherwise, and so does an edited configuration. The user has the id that the administrator
    gave it. A daemon that gave up over its configuration is started by what takes it.
    """
    service = Service(machine)
    machine.write("/etc/sysusers.d/ssm-status-reporter.conf", f"u {GROUP} {_USER_ID}\n")
    machine.run("unshare", "--mount", "sh", "-c", f"mount -t tmpfs tmpfs /run && exec make -C {_COPIED} install")
    assert "ssm-status-reporter" in machine.run(_LINK, "--version")
    assert machine.run("id", "--user", GROUP).strip() == str(_USER_ID)
    spool = machine.path(SPOOL).stat()
    assert (spool.st_uid, stat.S_IMODE(spool.st_mode)) == (0, 0o2770)
    machine.run("systemctl", "daemon-reload")
    service.set_up()
    service.start_endpoint()
    _delivers(service, "By-Make")
    machine.run("systemctl", "enable", UNIT)
    machine.write(CONFIGURATION, "key_of_another_version: 2\n")
    with pytest.raises(CommandFailedError):
        service.control("restart")
    machine.write(CONFIGURATION, CONFIG)
    machine.run("make", "-C", _COPIED, "install")
    assert machine.path(CONFIGURATION).read_text("utf-8") == CONFIG
    assert service.is_active()

    service.stop_endpoint()
    machine.run("make", "-C", _COPIED, "uninstall")
    assert not service.is_active()
    for gone in (_LINK, _UNIT_FILE, "/opt/ssm-status-reporter"):
        assert not machine.path(gone).is_symlink()
        assert not machine.path(gone).exists()
    assert machine.path(f"{STATE}/outbox.db").exists()
    assert machine.path(CONFIGURATION).exists()
    machine.run("make", "-C", _COPIED, "uninstall", "PURGE=1")
    for gone in (STATE, SPOOL, CONFIGURATION):
        assert not machine.path(gone).exists()


@needs_machine
@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb for the package")
def test_a_package_takes_over_from_make_install(machine: Machine, tmp_path: Path) -> None:
    """A package over a `make install` says which unit is in force, and its program runs; the other goes alone."""
    service = Service(machine)
    machine.run("make", "-C", _COPIED, "install")
    service.set_up()
    machine.run("systemctl", "enable", UNIT)
    service.control("start")
    before = service.pid
    shutil.copy(package(tmp_path, 1), machine.path("/srv/package.deb"))
    told = machine.run("dpkg", "--force-confold", "--install", "/srv/package.deb")
    assert f"{_UNIT_FILE} is here too" in told
    before = service.anew_since(before)
    machine.run("make", "-C", _COPIED, "uninstall", "PURGE=1")
    service.anew_since(before)
    assert machine.shown(UNIT, "FragmentPath").endswith(UNIT_FILE.removeprefix("/usr"))
    assert machine.run("systemctl", "is-enabled", UNIT).strip() == "enabled"
    assert "hybrid.conf" in machine.shown(UNIT, "DropInPaths")
    assert machine.path(CONFIGURATION).read_text("utf-8") == CONFIG
    assert "ssm-status-reporter" in machine.run(_LINK, "--version")


@needs_machine
@pytest.mark.usefixtures("_rpmbuild", "machine")  # in this order: the machine stands on what is installed here
def test_the_rpm_package(machine: Machine, tmp_path: Path) -> None:
    """The RPM package installs a service that works, upgrades it in place, keeps the configuration, and goes."""
    for release in (1, 2):
        made("rpm", f"DIST={tmp_path}", f"RELEASE={release}")
        (found,) = tmp_path.glob(f"*-{release}.*.rpm")
        shutil.copy(found, machine.path(f"/srv/{release}.rpm"))
    rpm = ("rpm", "--force-debian", "--nodeps")
    service = Service(machine)
    machine.run(*rpm, "--install", "/srv/1.rpm")
    service.set_up()
    service.start_endpoint()
    _delivers(service, "By-RPM")
    before = service.pid
    machine.run(*rpm, "--upgrade", "/srv/2.rpm")
    service.anew_since(before)
    assert machine.path(CONFIGURATION).read_text("utf-8") == CONFIG
    service.stop_endpoint()
    machine.run(*rpm, "--erase", "ssm-status-reporter")
    assert not service.is_active()
    assert not machine.path("/opt/ssm-status-reporter").exists()
    assert machine.path(f"{STATE}/outbox.db").exists()


@needs_python
def test_make_install_below_another_root(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With DESTDIR and PREFIX everything lies below, ready to be packed; nothing of this machine is touched.

    The program is on disk before it is put in its place: a power cut leaves the old one or the new one.
    """
    target = tmp_path / "opt/ssm-status-reporter"
    tools = tmp_path_factory.mktemp("tools")
    synced = tools / "synced"
    (tools / "sync").write_text(f'#!/bin/sh\nls -d "{target}"* > "{synced}"\nexec {shutil.which("sync")} "$@"\n')
    (tools / "sync").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    made("install", f"DESTDIR={tmp_path}", "PREFIX=/usr")
    assert synced.read_text("utf-8").splitlines() == [f"{target}.new"]
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert {
        f"usr/lib/systemd/system/{UNIT}",
        "usr/lib/sysusers.d/ssm-status-reporter.conf",
        "usr/lib/tmpfiles.d/ssm-status-reporter.conf",
        "usr/lib/ssm-status-reporter/drop-ins/hybrid.conf",
        "etc/ssm-status-reporter/config.yaml",
        "opt/ssm-status-reporter/bin/ssm-status-reporter",
    } <= found
    link = tmp_path / "usr/bin/ssm-status-reporter"
    assert str(link.readlink()) == "/opt/ssm-status-reporter/bin/ssm-status-reporter"
    command = (tmp_path / "opt/ssm-status-reporter/bin/ssm-status-reporter").read_text("utf-8")
    assert command.startswith("#!/opt/ssm-status-reporter/bin/python -I\n")
    assert str(tmp_path) not in (tmp_path / "opt/ssm-status-reporter/pyvenv.cfg").read_text("utf-8")
    made("uninstall", f"DESTDIR={tmp_path}", "PREFIX=/usr", "PURGE=1")
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_an_interpreter_that_the_service_cannot_reach_is_refused(tmp_path: Path) -> None:
    """An interpreter below /root or /home, or anywhere but /usr/bin, is refused, before anything is made."""
    python = tmp_path / "python3"
    shutil.copy(sys.executable, python)
    ended = subprocess.run(
        [CHECKOUT / "packaging/environment", python, tmp_path, "/opt/ssm-status-reporter", tmp_path / "root"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert str(python) in ended.stderr
    assert "SYSTEM_PYTHON=" in ended.stderr
    assert not (tmp_path / "root").exists()


def test_the_unit_lets_run_what_the_installer_takes() -> None:
    """An interpreter that the installation takes is one that the service may execute, and the other way round."""
    taken = re.findall(r"/usr/bin/python3\.\d+", (CHECKOUT / "packaging/environment").read_text("utf-8"))
    unit = (CHECKOUT / "systemd" / UNIT).read_text("utf-8")
    allowed = [path for line in unit.splitlines() if line.startswith("ExecPaths=") for path in line.split("-")]
    assert set(taken) - {"/usr/bin/python3.11 to 3.14"} == {path.strip() for path in allowed if "python3" in path}
