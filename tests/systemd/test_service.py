"""The service under a real systemd: the package installed, supervised, sandboxed, upgraded and removed.

One machine for all: each test leaves the service running as it found it; the last ones upgrade and remove it.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import Final

import pytest

from acceptance_support import waiting
from agent_support import FAILED, RUNNING, RUNNING_WORKER, ReplayedAgent, changed, held
from mosquitto_support import PASSWORD, USER, make_certificates, mosquitto_binary
from service_support import (
    CHECKOUT,
    CONFIG,
    CONFIGURATION,
    GROUP,
    KEYS,
    MEMBER,
    NODE,
    REGISTRATION,
    SPOOL,
    STATE,
    STRANGER,
    UNIT,
    UNIT_FILE,
    Service,
    package,
    python_too_old,
)
from systemd_support import CommandFailedError, Machine, why_not

EXPOSURE_MAX: Final = 1.3
HUNG_SECONDS: Final = 6
"""A watchdog interval that a test waits out."""
IDLE_SECONDS: Final = 20
"""As above, of which a machine that stands still for a while is not to make two."""
ROOM_MIB: Final = 12
"""Left on a full disk: enough for the daemon and the package manager's own account, not for half of a package."""
PATIENT: Final = "[Service]\nTimeoutStopSec=100s\n"
"""Ten times what a stop takes with a call out, and a third of what the call would take."""
CREDENTIALS: Final = "/root/.aws/credentials"

_WHY_NOT: Final = why_not() or python_too_old() or (None if which("dpkg-deb") else "no dpkg-deb for the package")
pytestmark = pytest.mark.skipif(_WHY_NOT is not None, reason=f"no real systemd: {_WHY_NOT}")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two releases, older first."""
    directory = tmp_path_factory.mktemp("packages")
    with suppress(pytest.skip.Exception):  # only the test that uses it is skipped
        mosquitto_binary()  # now: the machine stands on what is installed here
    return package(directory, 1), package(directory, 2)


@pytest.fixture(scope="module")
def installed(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    machine = Machine(tmp_path_factory.mktemp("machine") / "disk")
    try:
        service = Service(machine)
        service.install(packages[0])
        service.set_up()
        service.start_endpoint()
        yield service
    finally:
        machine.close()
        assert machine.leftovers() == []


@pytest.fixture
def service(installed: Service) -> Service:
    """The service, running, with all it needs, whatever the test before came to."""
    installed.register()
    installed.machine.write(CREDENTIALS, KEYS, mode=0o600)
    installed.machine.write(CONFIGURATION, CONFIG)
    if not installed.machine.run("ss", "-Hltn", "sport = :4566"):
        installed.start_endpoint()
    installed.control("start")
    return installed


def test_a_boot_at_which_everything_comes_late(installed: Service) -> None:
    """The daemon starts before registration, keys and network; each is waited for, said, and needs no hand."""
    machine = installed.machine
    installed.control("stop")
    machine.run("rm", "-rf", "/root/.aws", REGISTRATION)
    installed.stop_endpoint()
    machine.run("systemctl", "start", "--no-block", UNIT)
    entry = installed.said("node.instance_id")
    assert (entry["PRIORITY"], "registration" in entry["MESSAGE"]) == ("3", True)
    machine.until(lambda: int(machine.shown(UNIT, "NRestarts")), "it is started again")
    installed.register()
    machine.until(installed.is_active, "registered, it is READY")
    installed.drop("early", document="All-Late")
    installed.says("credentials hold: NoCredentials")
    machine.write(CREDENTIALS, KEYS, mode=0o600)
    installed.says("endpoint hold: ConnectionError")
    installed.start_endpoint()
    assert installed.arrived("All-Late")["instance_id"] == NODE
    installed.says("1 associations, 0 pending, last delivered")


def test_the_unit_has_no_fault(service: Service) -> None:
    """`systemd-analyze verify` has nothing to say, and the exposure is what was promised, drop-ins included."""
    machine = service.machine
    assert machine.run("systemd-analyze", "verify", UNIT_FILE) == ""
    verdict = machine.run("systemd-analyze", "security", "--no-pager", UNIT).splitlines()[-1]
    assert float(verdict.partition("service:")[2].split()[0]) <= EXPOSURE_MAX
    assert machine.shown(UNIT, "CapabilityBoundingSet") == "cap_dac_read_search"
    status = machine.path(f"/proc/{service.pid}/status").read_text("ascii")
    assert f"CapEff:\t{1 << 2:016x}" in status


def test_it_comes_after_what_it_uses_and_requires_none_of_it(service: Service) -> None:
    """Network and SSM Agent (package or snap) come first where they exist; without either the service starts."""
    others = {
        "network-online.target",
        "amazon-ssm-agent.service",
        "snap.amazon-ssm-agent.amazon-ssm-agent.service",
    }
    shown = service.machine.shown
    assert others <= set(shown(UNIT, "After").split())
    for required in ("Requires", "Requisite", "BindsTo", "PartOf"):
        assert not others & set(shown(UNIT, required).split())
    assert "multi-user.target" in shown(UNIT, "WantedBy")


def test_a_run_of_the_agent_arrives(service: Service) -> None:
    """A run that the SSM Agent writes as it does, 0600 in its 0700 directories, and removes at once, is reported."""
    machine = service.machine
    state = f"/var/lib/amazon/ssm/{NODE}/document/state"
    below = [f"/var/lib/amazon/ssm/{NODE}", f"/var/lib/amazon/ssm/{NODE}/document", state]
    machine.run("install", "-d", "-m", "0700", *below)
    agent = ReplayedAgent(machine.path(state))
    agent.start()
    service.logged("watching the SSM Agent's runs")
    name = "Agent-Doc.2026-11-22T13-23-57.041Z"
    agent.submit(name, changed(RUNNING, "InProgress", "Agent-Doc", name.partition(".")[2]))
    agent.begin(name)
    machine.until(lambda: name in held(Path(state), service.pid, machine.path("/proc")), "the run is held")
    agent.rewrite(name, changed(RUNNING_WORKER, "InProgress", "Agent-Doc", name.partition(".")[2]))
    agent.rewrite(name, changed(FAILED, "Failed", "Agent-Doc", name.partition(".")[2]))
    agent.remove(name)
    for directory in ("/var/lib/amazon", "/var/lib/amazon/ssm", *below, f"{state}/current"):
        found = machine.path(directory).stat()
        assert (found.st_uid, found.st_mode & 0o777) == (0, 0o700)
    assert service.arrived("Agent-Doc")["status"] == "Failed"


def test_a_proxy_is_named_in_the_environment_file(service: Service) -> None:
    """What the administrator writes there, readable by root alone for a password may be in it, the daemon has."""
    machine, path = service.machine, "/etc/ssm-status-reporter/environment"
    before = machine.path(path).read_text("utf-8")
    assert machine.path(path).stat().st_mode & 0o777 == 0o600
    machine.write(path, "HTTPS_PROXY=http://user:password@proxy.example:3128\n", mode=0o600)
    service.control("restart")
    assert b"HTTPS_PROXY=http://user:password@" in machine.path(f"/proc/{service.pid}/environ").read_bytes()
    machine.write(path, before, mode=0o600)
    service.control("restart")


def test_the_service_is_bounded(service: Service) -> None:
    """Memory and tasks have limits that the kernel enforces."""
    assert machine_limit(service, "MemoryMax") == 256 << 20
    assert machine_limit(service, "TasksMax") == 64
    assert 0 < machine_limit(service, "MemoryCurrent") < 128 << 20


def machine_limit(service: Service, name: str) -> int:
    """A number that systemd shows of the unit."""
    return int(service.machine.shown(UNIT, name))


def test_results_of_root_and_of_a_member_arrive(service: Service) -> None:
    """Root's result, readable by root alone, and a group member's are delivered and taken away."""
    service.drop("by-root", document="By-Root", mode=0o600)
    service.drop("by-member", document="By-Member", mode=0o640, owner=f"{MEMBER}:{GROUP}")
    service.machine.run(
        "runuser", "--user", MEMBER, "--",
        "ssm-status-reporter", "submit", "--document", "By-Submit", "--status", "Failed",
    )  # fmt: skip
    for document, status in (("By-Root", "Success"), ("By-Member", "Success"), ("By-Submit", "Failed")):
        assert service.arrived(document)["status"] == status
    service.machine.until(lambda: not list(service.machine.path(SPOOL).glob("*.json")), "the files are gone")


def test_what_the_group_cannot_read_is_refused_with_the_remedy(service: Service) -> None:
    """A member's result that the group may not read moves to rejected/, beside a text that says chmod."""
    service.drop("closed", document="Closed", mode=0o600, owner=f"{MEMBER}:{MEMBER}")
    error = f"{SPOOL}/rejected/closed.json.error"
    service.machine.until(lambda: service.machine.path(error).exists(), "the refusal")
    assert "chmod 0640" in service.machine.run("runuser", "--user", MEMBER, "--", "cat", error)
    assert service.updates("Closed") == []


def test_status_works_for_root_and_members_alone(service: Service) -> None:
    """`status` tells root and the group's members the same, and a stranger neither that nor the results."""
    assert service.state()["daemon"]["pid"] == service.pid
    assert service.state("runuser", "--user", MEMBER, "--")["daemon"]["running"]
    for command in (["ssm-status-reporter", "status"], ["ls", SPOOL], ["ls", STATE]):
        with pytest.raises(CommandFailedError):
            service.machine.run("runuser", "--user", STRANGER, "--", *command)


def test_the_journal_has_fields(service: Service) -> None:
    """`journalctl SSM_DOCUMENT=…` finds what became of a document, with a priority and without secrets."""
    service.drop("fields", document="Fields", message="all well")
    service.arrived("Fields")
    entry = service.logged("delivered", document="Fields")
    assert (entry["PRIORITY"], entry["SSM_INSTANCE_ID"], entry["_PID"]) == ("6", NODE, str(service.pid))
    assert json.loads(entry["MESSAGE"])["document"] == "Fields"
    assert "secret-never-logged" not in service.machine.run("journalctl", "--all", "--output=export")


def test_a_stopped_daemon_is_ended_by_the_watchdog(service: Service) -> None:
    """A daemon that hangs is ended and started anew, and what came meanwhile is delivered."""
    with service.changed("watchdog.conf", f"[Service]\nWatchdogSec={HUNG_SECONDS}s\n"):
        before = service.pid
        service.machine.run("kill", "-STOP", str(before))
        service.drop("hung", document="While-Hung")
        service.anew_since(before)
        assert service.arrived("While-Hung")
    service.told_of("Watchdog timeout")


def test_an_idle_daemon_lives_through_the_watchdog(service: Service) -> None:
    """With nothing to do, the daemon is not taken for stuck."""
    machine = service.machine

    def fed() -> int:
        return int(machine.shown(UNIT, "WatchdogTimestampMonotonic"))

    with service.changed("watchdog.conf", f"[Service]\nWatchdogSec={IDLE_SECONDS}s\n"):
        before, first = service.pid, fed()
        machine.until(lambda: fed() > first + IDLE_SECONDS * 1_000_000, "a whole watchdog interval passed")
        assert service.pid == before


def test_a_killed_daemon_comes_back(service: Service) -> None:
    """After kill -9 the daemon is started anew, and what came meanwhile is delivered."""
    before = service.pid
    service.machine.run("kill", "-KILL", str(before))
    service.drop("killed", document="While-Killed")
    service.anew_since(before)
    assert service.arrived("While-Killed")


def test_reload_takes_a_good_configuration_and_keeps_it_for_a_bad_one(service: Service) -> None:
    """A good configuration is taken by the same process; a bad one fails the reload, is said, changes nothing."""
    machine, before = service.machine, service.pid
    machine.write(CONFIGURATION, CONFIG + "log: {level: debug}\nmetrics: {listen: '127.0.0.1:9107'}\n")
    service.control("reload")
    entry = json.loads(service.logged("reloaded")["MESSAGE"])
    assert entry["changed"] == ["log.level", "metrics.listen"]
    assert entry["needs_restart"] == ["metrics.listen"]
    machine.write(CONFIGURATION, "delivery: {rate: fast, wings: 2}\n")
    with pytest.raises(CommandFailedError):
        service.control("reload")
    service.told_of("delivery.rate")
    service.told_of("delivery.wings")
    machine.run("kill", "-HUP", str(before))
    assert service.logged("not reloaded: the configuration is bad, the old one stays in force")["PRIORITY"] == "3"
    assert service.pid == before
    machine.write(CONFIGURATION, CONFIG)
    service.control("reload")
    service.drop("after", document="After-Reloads")
    assert service.arrived("After-Reloads")


def test_a_bad_configuration_is_not_tried_again_and_again(service: Service) -> None:
    """With a bad configuration the start fails with 78 and stays failed, rather than in a loop."""
    machine = service.machine
    machine.write(CONFIGURATION, "wings: 2\n")
    with pytest.raises(CommandFailedError):
        service.control("restart")
    assert machine.shown(UNIT, "ActiveState") == "failed"
    assert machine.shown(UNIT, "ExecMainStatus") == "78"
    assert service.said("wings: unknown key")["PRIORITY"] == "3"
    machine.write(CONFIGURATION, CONFIG)
    service.control("start")
    assert service.is_active()


def test_an_outbox_of_somebody_elses_is_said_with_the_remedy(service: Service) -> None:
    """An outbox that root copied into place and kept: 69, an error that says chown, and a start once that is done."""
    machine = service.machine
    service.control("stop")
    machine.run("chown", "root:root", f"{STATE}/outbox.db")
    with pytest.raises(CommandFailedError):
        service.control("start")
    # It is tried again and again, and has no status while it is.
    machine.until(lambda: machine.shown(UNIT, "ExecMainStatus") == "69", "69")
    entry = service.said(f"{STATE}/outbox.db: may not be written")
    assert (entry["PRIORITY"], "chown" in entry["MESSAGE"]) == ("3", True)
    machine.run("chown", f"{GROUP}:{GROUP}", f"{STATE}/outbox.db")
    machine.until(service.is_active, "it starts by itself")


def test_a_member_looks_and_does_not_change(service: Service) -> None:
    """A member of the group who retries dead letters is told to be root, in one line."""
    command = ("runuser", "--user", MEMBER, "--", "ssm-status-reporter", "dead-letters")
    assert service.machine.run(*command, "list") == "no dead letters\n"
    with pytest.raises(CommandFailedError) as refused:
        service.machine.run(*command, "retry", "1")
    assert "run as root" in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_it_stops_in_time_with_a_call_out(service: Service) -> None:
    """A stop ends within its bound although the endpoint does not answer, cleanly; the report goes out later."""
    machine = service.machine
    with service.changed("patient.conf", PATIENT, CONFIG.replace("delivery: {", "delivery: {timeout: 5m, ")):
        machine.run("systemctl", "kill", "--signal=STOP", "endpoint.service")
        service.drop("unanswered", document="Unanswered")
        machine.until(lambda: service.state()["outbox"]["in_flight"], "a call is out")
        service.control("stop")
        assert machine.shown(UNIT, "Result") == "success", "by itself: systemd ends it at TimeoutStopSec="
        machine.run("systemctl", "kill", "--signal=CONT", "endpoint.service")
    assert service.arrived("Unanswered")
    machine.until(lambda: not waiting(service.state()), "nothing is left to do")


_READ: Final = (
    "/etc/shadow",
    "/etc/gshadow",
    "/root/secret",
    f"/home/{STRANGER}/secret",
    "/srv/of-stranger",
    CREDENTIALS,
    REGISTRATION,
)
_OWN: Final = ("/tmp", "/var/tmp", "/dev/mqueue", STATE, SPOOL)  # noqa: S108 - its own, by PrivateTmp= and PrivateIPC=
_DEPTH_MAX: Final = 4
"""How far down directories are looked at; what lies deeper belongs to what stands above it."""
_SANDBOX: Final = f"""
import subprocess

def tried(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return error.strerror
    return "done"

def read(path):
    with open(path) as file:
        file.read(1)

def writable(top):
    for directory, below, _ in os.walk(top):
        if directory.startswith(("/proc/", "/sys/")) or directory.count("/") >= {_DEPTH_MAX} or directory in {_OWN!r}:
            below.clear()
        if os.access(directory, os.W_OK):
            yield directory

found["read"] = [path for path in {_READ!r} if tried(read, path) == "done"]
found["written"] = sorted(writable("/"))
found["root's home"] = sorted(os.listdir("/root"))
found["shell"] = tried(subprocess.run, ["/bin/sh", "-c", "true"])
found["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
"""


def test_the_sandbox_opens_what_is_needed_and_nothing_else(service: Service) -> None:
    """The agent's 0700 directory and its keys can be read, not /etc/shadow, the rest of /root or others' files.

    And nothing can be written outside the service's own directories.
    """
    machine = service.machine
    machine.write("/root/secret", "secret", mode=0o600)
    machine.write(f"/home/{STRANGER}/secret", "secret", mode=0o600, owner=f"{STRANGER}:{STRANGER}")
    machine.write("/srv/of-stranger", "secret", mode=0o600, owner=f"{STRANGER}:{STRANGER}")
    found = service.probe(_SANDBOX)
    service.control("restart")
    assert found["read"] == [CREDENTIALS, REGISTRATION]
    assert found["written"] == sorted(_OWN)
    assert found["root's home"] == [".aws"]
    assert found["shell"] == "Permission denied"
    assert found["processes"] <= 2  # the daemon's and the probe's


def test_a_shadow_of_root_alone_is_covered(service: Service) -> None:
    """Where /etc/shadow is root:root, which the capability would reach, the drop-in for it keeps it shut."""
    machine = service.machine
    machine.run("chown", "root:root", "/etc/shadow")
    script = "with open('/etc/shadow') as file:\n    found['size'] = len(file.read())"
    try:
        service.drop_in("shadow.conf", (CHECKOUT / f"systemd/{UNIT}.d.examples/shadow.conf").read_text("utf-8"))
        assert service.probe(script)["size"] == 0
        machine.run("rm", f"/etc/systemd/system/{UNIT}.d/shadow.conf")
        assert service.probe(script)["size"] > 0  # or the drop-in proves nothing
    finally:
        machine.run("rm", "-f", f"/etc/systemd/system/{UNIT}.d/shadow.conf")
        machine.run("chown", "root:shadow", "/etc/shadow")


_BROKER: Final = "/srv/broker"
_MQTT: Final = "/etc/ssm-status-reporter/mqtt"
_PUBLISHED: Final = f"""
import paho.mqtt.publish as publish
publish.single(
    "ssm-status/{NODE}/results", '{{"document": "By-MQTT", "status": "Success"}}', qos=1,
    hostname="localhost", port=8883,
    auth={{"username": "reporter", "password": "{PASSWORD}"}},
    tls={{"ca_certs": "{_MQTT}/ca.pem", "certfile": "{_MQTT}/client.crt", "keyfile": "{_MQTT}/client.key"}},
)
"""


@pytest.fixture
def _broker(service: Service, tmp_path: Path) -> Iterator[None]:
    """A broker that asks for a client certificate and a password, and what the administrator has for the daemon."""
    binary, machine = mosquitto_binary(), service.machine
    made = make_certificates(tmp_path)
    files = {
        f"{_BROKER}/ca.pem": made.ca,
        f"{_BROKER}/server.crt": made.server,
        f"{_BROKER}/server.key": made.server_key,
        f"{_MQTT}/ca.pem": made.ca,
        f"{_MQTT}/client.crt": made.client,
        f"{_MQTT}/client.key": made.client_key,
    }
    for path, file in files.items():
        machine.write(path, file.read_text("ascii"), mode=0o600)
    machine.write(f"{_MQTT}/password", PASSWORD, mode=0o600)
    machine.run("mosquitto_passwd", "-c", "-b", f"{_BROKER}/passwords", USER, PASSWORD)
    machine.write(
        f"{_BROKER}/mosquitto.conf",
        f"listener 8883 127.0.0.1\nuser root\nallow_anonymous false\npassword_file {_BROKER}/passwords\n"
        f"cafile {_BROKER}/ca.pem\ncertfile {_BROKER}/server.crt\nkeyfile {_BROKER}/server.key\n"
        "require_certificate true\n",
    )
    machine.run("systemd-run", "--quiet", "--unit=broker", "--collect", binary, "-c", f"{_BROKER}/mosquitto.conf")
    machine.until(lambda: machine.run("ss", "-Hltn", "sport = :8883"), "the broker listens")
    yield
    machine.run("systemctl", "stop", "broker.service")
    machine.run("rm", "-rf", f"/etc/systemd/system/{UNIT}.d/mqtt.conf", _MQTT)
    machine.write(CONFIGURATION, CONFIG)
    machine.run("systemctl", "daemon-reload")
    service.control("restart")


@pytest.mark.usefixtures("_broker")
def test_results_come_over_mqtt_with_keys_that_are_roots_alone(service: Service) -> None:
    """With mqtt.conf as it is shipped, the daemon logs in by keys and password that the service manager hands over.

    `doctor` finds the broker by them too, and with MQTT and metrics on the memory is far from its limit.
    """
    machine, drop_ins = service.machine, "/usr/lib/ssm-status-reporter/drop-ins"
    machine.run("cp", f"{drop_ins}/mqtt.conf", f"/etc/systemd/system/{UNIT}.d/")
    shipped = (
        machine.path(f"{drop_ins}/mqtt.conf").read_text("utf-8").partition("#   sources:")[2].partition("#\n")[0]
    )
    sources = f"sources:{shipped}".replace("\n#   ", "\n").replace("broker.example", "localhost")
    machine.write(CONFIGURATION, f"{CONFIG}{sources}metrics: {{listen: '127.0.0.1:9107'}}\n")
    machine.run("systemctl", "daemon-reload")
    service.control("restart")
    service.logged("connected to the broker")
    service.logged("serving metrics")
    machine.run("/opt/ssm-status-reporter/bin/python", "-I", "-c", _PUBLISHED)
    assert service.arrived("By-MQTT")["status"] == "Success"
    assert 0 < machine_limit(service, "MemoryCurrent") < 128 << 20
    findings = json.loads(machine.run("ssm-status-reporter", "doctor", "--json", check=False))["findings"]
    judged = {finding["check"]: finding["ok"] for finding in findings}
    assert judged["broker"]
    assert judged["credentials"]
    machine.run("rm", f"{_MQTT}/password")
    with pytest.raises(CommandFailedError):
        service.control("restart")
    service.told_of("status=243/CREDENTIALS")  # as the runbook has it


def test_a_metrics_file_for_a_collector(service: Service) -> None:
    """In a directory of somebody else's, opened as README says, the file is written, and readable for everybody."""
    machine, directory = service.machine, "/var/lib/collector"
    machine.run("install", "-d", "-o", STRANGER, "-m", "0755", directory)
    machine.run("chgrp", GROUP, directory)
    machine.run("chmod", "g+w", directory)
    service.drop_in("metrics.conf", f"[Service]\nReadWritePaths={directory}\n")
    machine.write(CONFIGURATION, f"{CONFIG}metrics: {{textfile: {directory}/reporter.prom}}\n")
    service.control("restart")
    file = f"{directory}/reporter.prom"
    machine.until(lambda: machine.path(file).exists(), "the metrics file")
    assert "ssm_status_reporter_delivered_total" in machine.run("runuser", "--user", STRANGER, "--", "cat", file)
    machine.run("rm", f"/etc/systemd/system/{UNIT}.d/metrics.conf")
    machine.write(CONFIGURATION, CONFIG)
    machine.run("systemctl", "daemon-reload")
    service.control("restart")


def test_rotated_keys_are_seen(service: Service) -> None:
    """Keys that the agent rewrites in place, or a file put in the other's place, sign the next call."""
    machine = service.machine
    machine.path(CREDENTIALS).write_text(KEYS.replace("AKIDEXAMPLE", "AKIDINPLACE"), "ascii")
    service.drop("rotated", document="Rotated")
    assert service.arrived("Rotated")["access_key_id"] == "AKIDINPLACE"
    noticed = "shared credentials changed: they are tried at once"
    machine.until(
        lambda: any(noticed in str(entry["MESSAGE"]) for entry in machine.journal(f"_SYSTEMD_UNIT={UNIT}")),
        "inotify tells of it through the sandbox",
    )
    machine.write(CREDENTIALS, KEYS.replace("AKIDEXAMPLE", "AKIDREPLACED"), mode=0o600)
    service.drop("replaced", document="Replaced")
    assert service.arrived("Replaced")["access_key_id"] == "AKIDREPLACED"


def test_a_results_directory_made_anew_is_served(service: Service) -> None:
    """A results directory that was removed and made again is watched and written as before, without a restart."""
    machine, before = service.machine, service.pid
    machine.run("rm", "-rf", SPOOL)
    machine.run("systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/ssm-status-reporter.conf")
    service.drop("again", document="Made-Anew")
    assert service.arrived("Made-Anew")
    assert service.pid == before


def test_upgrade_in_place_with_a_backlog(service: Service, packages: tuple[Path, Path]) -> None:
    """An upgrade starts the new daemon, keeps the edited configuration, and the backlog is delivered by it."""
    machine, before = service.machine, service.pid
    service.stop_endpoint()
    for number in range(3):
        service.drop(f"backlog-{number}", document=f"Backlog-{number}")
    machine.until(lambda: service.state()["outbox"]["pending"] == 3, "three reports wait")
    service.install(packages[1])
    assert service.anew_since(before)
    assert machine.run("dpkg-query", "--show", "--showformat=${Version}", "ssm-status-reporter").endswith("-2")
    assert machine.path(CONFIGURATION).read_text("utf-8") == CONFIG
    service.start_endpoint()
    for number in range(3):
        assert service.arrived(f"Backlog-{number}")


def test_an_upgrade_does_not_start_what_was_stopped(service: Service, packages: tuple[Path, Path]) -> None:
    """A service that the administrator stopped and disabled stays so through an upgrade."""
    service.control("stop")
    service.control("disable")
    service.install(packages[1])
    assert not service.is_active()
    enabled = service.machine.run("systemctl", "is-enabled", UNIT, check=False)
    assert enabled.strip() == "disabled"


def test_an_upgrade_starts_what_gave_up_over_its_configuration(
    service: Service, packages: tuple[Path, Path]
) -> None:
    """A daemon that refused its configuration was not stopped by anybody: the version that takes it starts it."""
    machine = service.machine
    service.control("enable")
    machine.write(CONFIGURATION, "key_of_another_version: 2\n")
    with pytest.raises(CommandFailedError):
        service.control("restart")
    assert machine.shown(UNIT, "ActiveState") == "failed"
    assert "systemctl status ssm-status-reporter says why" in service.install(packages[1])
    machine.write(CONFIGURATION, CONFIG)
    service.install(packages[1])
    assert service.is_active()


def test_an_upgrade_without_room_on_the_disk_changes_nothing(
    service: Service, packages: tuple[Path, Path]
) -> None:
    """A package that cannot be unpacked leaves the one before installed, and its daemon at work, not started anew."""
    machine, before = service.machine, service.pid
    free = int(machine.run("df", "--output=avail", "--block-size=1M", "/").split()[-1])
    machine.run("fallocate", "--length", f"{free - ROOM_MIB}MiB", "/srv/full")
    try:
        with pytest.raises(CommandFailedError, match="No space left on device"):
            service.install(packages[0])
    finally:
        machine.run("rm", "-f", "/srv/full")
    found = machine.run(
        "dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", "ssm-status-reporter"
    )
    assert found.startswith("installed ")
    assert found.endswith("-2")
    assert service.pid == before


def test_a_removed_package_that_comes_back_starts_its_service(
    service: Service, packages: tuple[Path, Path]
) -> None:
    """Removed with its configuration kept and installed again, the package starts its service as at the first time.

    It can be removed although somebody deleted its unit.
    """
    machine = service.machine
    service.control("enable")
    service.control("stop")
    machine.run("rm", UNIT_FILE)
    machine.run("systemctl", "daemon-reload")
    machine.run("dpkg", "--remove", "ssm-status-reporter")
    service.install(packages[1])
    assert service.is_active()
    assert machine.run("systemctl", "is-enabled", UNIT).strip() == "enabled"


def test_removal_keeps_the_state_and_purging_does_not(service: Service) -> None:
    """Removing the package ends the service and keeps what is undelivered; purging it leaves nothing behind."""
    machine = service.machine
    service.stop_endpoint()
    service.drop("kept", document="Kept")
    machine.until(lambda: service.state()["outbox"]["pending"], "a report waits")
    machine.run("dpkg", "--remove", "ssm-status-reporter")
    assert not service.is_active()
    for gone in ("/opt/ssm-status-reporter", "/usr/local/bin/ssm-status-reporter", UNIT_FILE):
        assert not machine.path(gone).exists()
        assert not machine.path(gone).is_symlink()
    for kept in (f"{STATE}/outbox.db", SPOOL, CONFIGURATION):
        assert machine.path(kept).exists()
    machine.run("dpkg", "--purge", "ssm-status-reporter")
    for gone in (STATE, SPOOL, "/etc/ssm-status-reporter"):
        assert not machine.path(gone).exists()
    left = machine.run("find", "/etc/systemd", "/usr/lib", "/usr/local", "/opt", "-name", "ssm-status-reporter*")
    assert [
        line for line in left.splitlines() if "/service.d" not in line and not line.endswith(".service.d")
    ] == []
