"""The installed service on a machine of its own: its package, its unit, and an SSM endpoint beside it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from systemd_support import CommandFailedError, Machine

CHECKOUT: Final = Path(__file__).parents[1]
UNIT: Final = "ssm-status-reporter.service"
UNIT_FILE: Final = f"/usr/lib/systemd/system/{UNIT}"
COMMAND: Final = "/opt/ssm-status-reporter/bin/ssm-status-reporter"
CONFIGURATION: Final = "/etc/ssm-status-reporter/config.yaml"
SPOOL: Final = "/var/spool/ssm-status-reporter"
STATE: Final = "/var/lib/ssm-status-reporter"
GROUP: Final = "ssm-status-reporter"
MEMBER: Final = "runner"
"""A user in the group, as whom a runner works."""
STRANGER: Final = "stranger"
PYTHON_MINOR_MIN: Final = 11
NODE: Final = "mi-0123456789abcdef0"
UPDATE: Final = "UpdateAssociationStatus"
KEYS: Final = "[default]\naws_access_key_id=AKIDEXAMPLE\naws_secret_access_key=secret-never-logged\n"
CONFIG: Final = """\
# edited by the administrator
aws: {endpoint_url: "http://127.0.0.1:4566"}
delivery: {backoff: {initial: 100ms, max: 500ms}}
debounce: {window: 0s}
"""
QUICK: Final = "[Service]\nRestartSec=200ms\n"

REGISTRATION: Final = "/var/lib/amazon/ssm/registration"

_LEDGER: Final = "/srv/ledger.jsonl"


def made(target: str, *variables: str) -> None:
    """What `make` makes, in this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    ended = subprocess.run(
        ["make", "--no-print-directory", target, *variables],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def python_too_old() -> str | None:
    """Why the system's own Python cannot run the service; None: it can."""
    python = Path("/usr/bin/python3").resolve()
    minor = python.name.removeprefix("python3.")
    if python.parent != Path("/usr/bin") or not minor.isdecimal() or int(minor) < PYTHON_MINOR_MIN:
        return f"the system's own Python is {python}, not 3.{PYTHON_MINOR_MIN} or later"
    return None


def package(directory: Path, release: int) -> Path:
    """The Debian package of that release."""
    made("deb", f"DIST={directory}", f"RELEASE={release}")
    (found,) = directory.glob(f"*-{release}_*.deb")
    return found


class Service:
    """The service on a machine: installed by its package, on a hybrid node, the endpoint at hand."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def install(self, deb: Path) -> str:
        """Install the package, or upgrade to it; what that printed."""
        shutil.copy(deb, self.machine.path("/tmp/package.deb"))  # noqa: S108 - the machine's own
        return self.machine.run("dpkg", "--install", "/tmp/package.deb")  # noqa: S108

    def set_up(self) -> None:
        """What an administrator does on a hybrid node, and the SSM Agent."""
        run, write = self.machine.run, self.machine.write
        run("useradd", "--groups", GROUP, MEMBER)
        run("useradd", STRANGER)
        self.register()
        run("chmod", "0700", "/var/lib/amazon", "/var/lib/amazon/ssm")
        write(CONFIGURATION, CONFIG)
        run("mkdir", "-p", f"/etc/systemd/system/{UNIT}.d")
        hybrid = [f"{lib}/ssm-status-reporter/drop-ins/hybrid.conf" for lib in ("/usr/lib", "/usr/local/lib")]
        (installed,) = (path for path in hybrid if self.machine.path(path).exists())
        run("ln", "-s", installed, f"/etc/systemd/system/{UNIT}.d/")
        self.drop_in("quick.conf", QUICK)

    def register(self) -> None:
        """What the SSM Agent writes once it is registered."""
        self.machine.write(
            REGISTRATION, json.dumps({"ManagedInstanceID": NODE, "Region": "eu-west-1"}), mode=0o600
        )

    def drop_in(self, name: str, text: str) -> None:
        """Change the unit."""
        self.machine.write(f"/etc/systemd/system/{UNIT}.d/{name}", text)
        self.machine.run("systemctl", "daemon-reload")

    def control(self, action: str) -> None:
        """`systemctl ACTION` on the unit; the journal goes with its failure."""
        try:
            self.machine.run("systemctl", action, UNIT)
        except CommandFailedError as error:
            raise CommandFailedError(f"{error}\n{self.machine.last_words()}") from None

    @property
    def pid(self) -> int:
        """The daemon's process on the machine; 0: it does not run."""
        return int(self.machine.shown(UNIT, "MainPID"))

    def is_active(self) -> bool:
        """Whether it is up and READY."""
        return self.machine.shown(UNIT, "ActiveState") == "active"

    def anew_since(self, pid: int) -> int:
        """Wait for another daemon to be READY; its process."""
        self.machine.until(lambda: self.pid not in {0, pid} and self.is_active(), "another daemon runs")
        return self.pid

    def start_endpoint(self) -> None:
        """An SSM endpoint, as the configuration names it."""
        self.machine.run(
            "systemd-run", "--quiet", "--unit=endpoint", "--collect",
            COMMAND, "emulator", "--port=4566", f"--ledger={_LEDGER}",
        )  # fmt: skip
        self.machine.until(lambda: ":4566" in self.machine.run("ss", "-Hltn"), "the endpoint listens")

    def stop_endpoint(self) -> None:
        """No endpoint any more."""
        self.machine.run("systemctl", "stop", "endpoint.service")

    def drop(self, name: str, *, owner: str = "root:root", mode: int = 0o600, **fields: str) -> None:
        """A runner's result, renamed into the results directory."""
        draft = f"{SPOOL}/.{name}"
        self.machine.write(draft, json.dumps({"status": "Success", **fields}), mode=mode, owner=owner)
        self.machine.run("mv", draft, f"{SPOOL}/{name}.json")

    def updates(self, document: str) -> list[dict[str, Any]]:
        """The endpoint's record of updates of that document that it took."""
        ledger = self.machine.path(_LEDGER)
        entries = map(json.loads, ledger.read_text("utf-8").splitlines()) if ledger.exists() else ()
        return [
            entry
            for entry in entries
            if entry["document"] == document and entry["operation"] == UPDATE and entry["applied"]
        ]

    def arrived(self, document: str) -> dict[str, Any]:
        """Wait for the document's update at the endpoint."""
        return self.machine.until(lambda: self.updates(document), f"an update of {document}")[-1]

    def said(self, text: str) -> dict[str, Any]:
        """Wait for the newest entry of the unit's journal whose message holds the text."""

        def look() -> list[dict[str, Any]]:
            entries = self.machine.journal(f"_SYSTEMD_UNIT={UNIT}")
            return [entry for entry in entries if text in str(entry["MESSAGE"])]

        return self.machine.until(look, f"a line with {text}")[-1]

    def logged(self, event: str, **fields: str) -> dict[str, Any]:
        """Wait for the newest entry of the journal with that event and those fields."""
        matches = [f"SSM_EVENT={event}", *(f"SSM_{name.upper()}={value}" for name, value in fields.items())]
        return self.machine.until(lambda: self.machine.journal(f"_SYSTEMD_UNIT={UNIT}", *matches), event)[-1]

    def told_of(self, pattern: str) -> None:
        """Wait for a line of the journal about the unit, the service manager's own included, that matches."""

        def look() -> str:
            self.machine.run("journalctl", "--sync")
            command = ("journalctl", "--quiet", "--unit", UNIT, "--output=cat", f"--grep={pattern}")
            return self.machine.run(*command, check=False)

        self.machine.until(look, f"a line that matches {pattern}")

    def says(self, text: str) -> None:
        """Wait for a status line that holds the text."""
        self.machine.until(lambda: text in self.machine.shown(UNIT, "StatusText"), f"a status line with {text}")

    @contextmanager
    def changed(self, name: str, text: str, configuration: str = CONFIG) -> Iterator[None]:
        """The service runs under a changed unit and configuration meanwhile."""
        self.machine.write(CONFIGURATION, configuration)
        self.drop_in(name, text)
        self.control("restart")
        try:
            yield
        finally:
            self.machine.write(CONFIGURATION, CONFIG)
            self.machine.run("rm", "-f", f"/etc/systemd/system/{UNIT}.d/{name}")
            self.machine.run("systemctl", "daemon-reload")
            self.control("restart")

    def state(self, *before: str) -> Mapping[str, Any]:
        """What `status --json` prints, called as ``before`` says."""
        found: Mapping[str, Any] = json.loads(self.machine.run(*before, "ssm-status-reporter", "status", "--json"))
        return found

    def probe(self, script: str) -> dict[str, Any]:
        """Run a script within the service's own sandbox, as its user; what it put into ``found``."""
        self.machine.write(
            f"{STATE}/probe.py",
            f"import json, os\nfound = {{}}\n{script}\n"
            f"with open('{STATE}/probe.json', 'w') as file: json.dump(found, file)\n",
        )
        python = "/opt/ssm-status-reporter/bin/python"
        self.drop_in("probe.conf", f"[Service]\nExecStartPost={python} -I {STATE}/probe.py\n")
        try:
            self.control("restart")
            found: dict[str, Any] = json.loads(self.machine.path(f"{STATE}/probe.json").read_text("utf-8"))
        finally:
            self.machine.run("rm", "-f", f"/etc/systemd/system/{UNIT}.d/probe.conf", f"{STATE}/probe.json")
            self.machine.run("systemctl", "daemon-reload")
        return found
