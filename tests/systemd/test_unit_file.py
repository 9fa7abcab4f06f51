"""The unit and its drop-ins as systemd reads them; needs neither root nor a running systemd."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from service_support import CHECKOUT, COMMAND, UNIT
from ssm_status_reporter.domain.limits import MQTT_FAREWELL_SECONDS_MAX, SPOOL_STOP_SECONDS_MAX, STOP_SECONDS_MAX

EXPOSURE_MAX: Final = 1.3
DROP_INS: Final = sorted((CHECKOUT / f"systemd/{UNIT}.d.examples").glob("*.conf"))

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def _analysed(*arguments: str | Path) -> str:
    ended = subprocess.run(
        ["systemd-analyze", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.fixture(params=[None, *DROP_INS], ids=lambda path: "alone" if path is None else path.stem)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit, alone or with one drop-in, its program being one that is here."""
    unit = tmp_path / UNIT
    unit.write_text((CHECKOUT / "systemd" / UNIT).read_text("utf-8").replace(COMMAND, "/bin/true"), "utf-8")
    if request.param is not None:
        (tmp_path / f"{UNIT}.d").mkdir()
        shutil.copy(request.param, tmp_path / f"{UNIT}.d")
    return unit


def test_systemd_has_nothing_to_say(unit: Path) -> None:
    """No key is unknown (which alone would be no error to systemd), no value is ignored."""
    assert _analysed("verify", unit) == ""


def test_the_exposure_is_what_was_promised(unit: Path) -> None:
    """An auditor sees 1.3 or less, with each drop-in too."""
    verdict = _analysed("security", "--offline=true", "--no-pager", unit).splitlines()[-1]
    assert float(verdict.partition("service:")[2].split()[0]) <= EXPOSURE_MAX


def test_every_wait_has_a_bound() -> None:
    """Restarts come at a fixed delay and without a limit, a stop is bounded beyond the daemon's own bounds together."""
    text = (CHECKOUT / "systemd" / UNIT).read_text("utf-8")
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["StartLimitIntervalSec"] == "0"
    assert (settings["Restart"], settings["RestartSec"]) == ("always", "5s")
    assert settings["RestartPreventExitStatus"] == "78"
    assert settings["WatchdogSec"] == "60s"  # on the machine of the tests a drop-in makes it shorter
    one_after_the_other = SPOOL_STOP_SECONDS_MAX + STOP_SECONDS_MAX + MQTT_FAREWELL_SECONDS_MAX
    assert one_after_the_other < int(settings["TimeoutStopSec"].removesuffix("s")) <= 30


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not here")
def test_what_submit_left_unfinished_goes_at_boot_and_nothing_else(tmp_path: Path) -> None:
    """A draft of `submit` that a power loss left is removed at the next boot, not before; all else stays."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nssm-status-reporter:x:900:\n")
    spool = tmp_path / "var/spool/ssm-status-reporter"
    spool.mkdir(parents=True)
    kept = {".draft.json", "run.json", "submit-00c0ffee00c0ffee.json"}
    for name in kept | {".submit-00c0ffee00c0ffee.json"}:
        (spool / name).touch()
    remove = ["systemd-tmpfiles", f"--root={tmp_path}", "--remove"]
    rules = str(CHECKOUT / "systemd/tmpfiles.d/ssm-status-reporter.conf")
    subprocess.run([*remove, rules], check=True)
    assert len(list(spool.iterdir())) == len(kept) + 1
    subprocess.run([*remove, "--boot", rules], check=True)
    assert {path.name for path in spool.iterdir()} == kept
