"""``ssm-status-reporter submit``, as a runner calls it."""

import json
import stat
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from acceptance_support import COMMAND
from results_directory_support import RecordingIntake, running, unprivileged
from ssm_status_reporter.cli.main import main

NODE = "i-0123456789abcdef0"
OTHER = "mi-0123456789abcdef0"


def configured(tmp_path: Path, spool: Path, more: str = "") -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"sources: {{results_directory: {{path: {spool}, max_file_size: 4KiB}}}}\n{more}")
    return path


def submit(config: Path, *arguments: str | bytes, umask: int = 0o077) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), "--config", config, "submit", *arguments],
        capture_output=True,
        text=True,
        check=False,
        umask=umask,
        timeout=120,
    )


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    directory.mkdir()
    return directory


@pytest.fixture
def config(tmp_path: Path, spool: Path) -> Path:
    return configured(tmp_path, spool)


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_one_result_is_written_and_its_path_printed(config: Path, spool: Path, umask: int) -> None:
    """The file is whole, readable for the group whatever the umask, and where the command says."""
    done = submit(config, "--document", "My-Doc", "--status", "Success", umask=umask)
    assert (done.returncode, done.stderr) == (0, "")
    path = Path(done.stdout.removesuffix("\n"))
    assert [path] == list(spool.iterdir())
    assert path.suffix == ".json"
    assert json.loads(path.read_bytes()) == {"document": "My-Doc", "status": "Success"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_the_daemon_accepts_what_is_submitted(config: Path, spool: Path) -> None:
    """Every option arrives as the field of its name; the text of a JSON object arrives as an object."""
    done = submit(
        config,
        *("--document", "My-Doc", "--status", "TimedOut", "--message", "zu spät ✗"),
        *("--additional-info", '{ "exit": 3, "why": "ü" }', "--observed-at", "2026-11-22T12:00:00+01:00"),
    )
    assert done.returncode == 0, done.stderr
    intake = RecordingIntake()
    async with running(spool, intake):
        await intake.until(lambda: len(intake.results) == 1)
    report = intake.results[0].report
    assert (report.status, report.message) == ("Failed", "zu spät ✗")
    assert report.additional_info == '{"exit":3,"why":"ü"}'
    assert report.observed_at_ms == 1795345200000


@pytest.mark.parametrize(
    "text",
    [
        *("exit 3", "{not json", "[1]", '{"a":1,"a":2}', ""),
        *('{"a":{"b":1,"b":2}}', '{"load": NaN}', '{"a":1e999}', '{"a":' * 70 + "1" + "}" * 70),
    ],
)
def test_other_additional_info_is_a_text(config: Path, text: str) -> None:
    """What is not the text of a JSON object such as a result takes goes as it was given."""
    done = submit(config, "--document", "My-Doc", "--status", "Success", "--additional-info", text)
    assert done.returncode == 0, done.stderr
    assert json.loads(Path(done.stdout.strip()).read_bytes())["additional_info"] == text


def test_each_submission_is_a_file_of_its_own(config: Path, spool: Path) -> None:
    """Nothing that was submitted before is overwritten."""
    for _ in range(3):
        assert submit(config, "--document", "My-Doc", "--status", "Success").returncode == 0
    assert len(list(spool.iterdir())) == 3


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--document", "my doc", "is not the name or ARN"),
        ("--status", "success", "did you mean Success?"),
        ("--message", b"\xff", "no character"),
        ("--observed-at", "2026-11-22T12:00:00", "has no offset"),
        ("--observed-at", "", "is not an RFC 3339 date"),
        ("--instance-id", "i-123", "is not a managed node"),
        ("--additional-info", b"\xff", "no character"),
    ],
)
def test_a_bad_value_is_refused_before_anything_is_written(
    config: Path, spool: Path, option: str, value: str | bytes, said: str
) -> None:
    """Exit 2, the option and what is wrong on standard error, and an empty directory."""
    done = submit(config, "--document", "My-Doc", "--status", "Success", option, value)
    assert done.returncode == 2
    assert option in done.stderr
    assert said in done.stderr
    assert done.stdout == ""
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("missing", ["--document", "--status"])
def test_document_and_status_are_required(config: Path, missing: str) -> None:
    """Exit 2 names what is missing."""
    arguments = {"--document": "My-Doc", "--status": "Success"}
    del arguments[missing]
    done = submit(config, *(part for pair in arguments.items() for part in pair))
    assert done.returncode == 2
    assert missing in done.stderr


def test_a_result_larger_than_the_daemon_takes_is_refused(config: Path, spool: Path) -> None:
    """The bound on files is known here, and named."""
    done = submit(config, "--document", "My-Doc", "--status", "Success", "--message", "x" * 5000)
    assert done.returncode == 2
    assert "max_file_size" in done.stderr
    assert list(spool.iterdir()) == []


def test_another_node_must_be_allowed(tmp_path: Path, spool: Path) -> None:
    """Where the configuration names this node, what the daemon would refuse is refused here."""
    arguments = ("--document", "My-Doc", "--status", "Success", "--instance-id")
    known = configured(tmp_path, spool, f"node: {{instance_id: {NODE}}}")
    assert submit(known, *arguments, NODE).returncode == 0
    refused = submit(known, *arguments, OTHER)
    assert refused.returncode == 2
    assert "--instance-id" in refused.stderr
    assert "node.allow" in refused.stderr
    gateway = configured(tmp_path, spool, f"node: {{instance_id: {NODE}, allow: ['mi-*']}}")
    assert submit(gateway, *arguments, OTHER).returncode == 0
    unknown = configured(tmp_path, spool)
    assert submit(unknown, *arguments, OTHER).returncode == 0


def test_a_missing_directory_is_told_what_to_do(tmp_path: Path) -> None:
    """Exit 1: the value was good, the place is not there."""
    done = submit(configured(tmp_path, tmp_path / "nowhere"), "--document", "My-Doc", "--status", "Success")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "create it" in done.stderr


def test_a_directory_that_is_not_writable_is_told_what_to_do() -> None:
    """Exit 1, and nothing is left behind."""
    # In this process, with everything imported: the interpreter may lie where nobody else may read.
    for name in ("cli.submit", "config"):
        import_module(f"ssm_status_reporter.{name}")
    with unprivileged() as directory:
        spool = directory / "spool"
        spool.mkdir(mode=0o500)
        config = configured(directory, spool)
        done = CliRunner().invoke(
            main, ["--config", str(config), "submit", "--document=My-Doc", "--status=Failed"]
        )
        assert done.exit_code == 1
        assert "group ssm-status-reporter" in done.stderr, done.exception
        assert list(spool.iterdir()) == []


def test_a_bad_configuration_is_said(tmp_path: Path) -> None:
    """Exit 78, as with every command."""
    path = tmp_path / "config.yaml"
    path.write_text("sources: {results_directory: {pth: /tmp}}\n")
    assert submit(path, "--document", "My-Doc", "--status", "Success").returncode == 78
