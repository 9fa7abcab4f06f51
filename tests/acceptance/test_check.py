"""The installed command: ``check``, ``config`` and the shell around them, as an administrator meets them."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ssm_status_reporter import __version__

COMMAND = Path(sys.executable).with_name("ssm-status-reporter")
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
SECONDS_MAX = 120.0

COMMANDS = ("run", "check", "config", "doctor", "submit", "status", "dead-letters", "emulator", "demo")


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command's end, with what it printed."""
    return subprocess.run(
        [COMMAND, *arguments],
        env=ENVIRONMENT | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS_MAX,
        check=False,
    )


def written(directory: Path, text: str) -> Path:
    """A configuration file with this text."""
    file = directory / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return file


# check


def test_a_good_configuration_is_ok(tmp_path: Path) -> None:
    """``check`` of a good file says so and exits 0."""
    file = written(tmp_path, "delivery: {rate: 2}\n")
    ended = run("--config", file, "check")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{file}: ok\n", "")


def test_every_error_comes_at_once_with_its_line_and_a_suggestion(tmp_path: Path) -> None:
    """``check`` of a bad file lists everything to correct, and exits 78."""
    file = written(
        tmp_path, "debonce:\n  window: 2s\ndelivery:\n  timeout: 10\n  backoff: {initial: 9s, max: 3s}\n"
    )
    ended = run("--config", file, "check")
    assert (ended.returncode, ended.stdout) == (78, "")
    first, second, third = ended.stderr.splitlines()
    assert first == f"{file}:1: debonce: unknown key `debonce` (did you mean `debounce`?)"
    assert (
        second
        == f"{file}:4: delivery.timeout: a number without a unit where a duration is due (write 10s or 10ms)"
    )
    assert third.startswith(
        f"{file}:5: delivery.backoff.initial: 9s is more than delivery.backoff.max, 3s (lower "
    )


def test_what_is_no_yaml_is_said_with_its_line(tmp_path: Path) -> None:
    """A tab in the indentation is found without a YAML course."""
    file = written(tmp_path, "log:\n\tlevel: info\n")
    ended = run("--config", file, "check")
    assert ended.returncode == 78
    assert ended.stderr.startswith(f"{file}:2: not YAML: ")
    assert "indent with spaces, not tabs" in ended.stderr


def test_a_named_file_that_does_not_exist_is_bad_configuration(tmp_path: Path) -> None:
    """A mistyped path exits 78 and not with the defaults."""
    ended = run("--config", tmp_path / "gone.yaml", "check")
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr.startswith(f"{tmp_path / 'gone.yaml'}: no such file")


@pytest.mark.skipif(os.path.lexists("/etc/ssm-status-reporter"), reason="this machine has a configuration")
@pytest.mark.parametrize("environment", [{}, {"SSM_STATUS_REPORTER_CONFIG": ""}])
def test_without_any_configuration_the_defaults_are_ok(environment: dict[str, str]) -> None:
    """On a machine that nobody configured, ``check`` exits 0 and says what applies."""
    ended = run("check", **environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "/etc/ssm-status-reporter/config.yaml: ok (no such file: the defaults apply)\n"


def test_the_environment_names_the_file_and_the_option_wins(tmp_path: Path) -> None:
    """SSM_STATUS_REPORTER_CONFIG is used where --config is not given."""
    file = written(tmp_path, "")
    gone = str(tmp_path / "gone.yaml")
    assert run("check", SSM_STATUS_REPORTER_CONFIG=str(file)).stdout == f"{file}: ok\n"
    assert run("check", SSM_STATUS_REPORTER_CONFIG=gone).returncode == 78
    assert run("--config", file, "check", SSM_STATUS_REPORTER_CONFIG=gone).stdout == f"{file}: ok\n"


def test_a_warning_does_not_change_the_verdict(tmp_path: Path) -> None:
    """What is valid and probably not meant is said, and ``check`` exits 0."""
    file = written(tmp_path, "aws: {endpoint_url: 'http://vpce.example'}\n")
    ended = run("--config", file, "check")
    assert (ended.returncode, ended.stdout) == (0, f"{file}: ok\n")
    assert ended.stderr.startswith(f"{file}: warning: aws.endpoint_url: without TLS")


def test_errors_are_readable_in_a_terminal_without_utf8(tmp_path: Path) -> None:
    """A locale that cannot show a character costs the character, not the message."""
    file = written(tmp_path, "größe: 1\n")
    ended = run("--config", file, "check", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert ended.returncode == 78
    assert ":1: gr" in ended.stderr
    assert "Traceback" not in ended.stderr


# config


def test_the_effective_configuration_is_a_configuration(tmp_path: Path) -> None:
    """What ``config show`` prints can be used as the file, and shows what was set beside the defaults."""
    shown = run("--config", written(tmp_path, "debounce: {window: 1500ms}\n"), "config", "show")
    assert shown.returncode == 0
    assert "  window: 1500ms\n" in shown.stdout
    again = run("--config", written(tmp_path, shown.stdout), "config", "show")
    assert again.stdout == shown.stdout


def test_a_bad_configuration_is_not_shown(tmp_path: Path) -> None:
    """``config show`` of a bad file exits 78 with the errors, and prints nothing that looks like an answer."""
    ended = run("--config", written(tmp_path, "x: 1\n"), "config", "show")
    assert (ended.returncode, ended.stdout) == (78, "")
    assert "unknown key `x`" in ended.stderr


def test_the_schema_needs_no_configuration(tmp_path: Path) -> None:
    """``config schema`` prints JSON Schema, whatever state the configuration is in."""
    ended = run("--config", tmp_path / "gone.yaml", "config", "schema")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["properties"]["delivery"]["properties"]["concurrency"]["maximum"] == 256


# The shell around them


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_every_command(option: str) -> None:
    """The help names the commands there are, in one line each."""
    ended = run(option)
    assert ended.returncode == 0
    listed = [line.split()[0] for line in ended.stdout.partition("Commands:")[2].splitlines() if line[:3].strip()]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", [("check",), ("config",), ("config", "show"), ("config", "schema")])
def test_every_command_helps(command: tuple[str, ...]) -> None:
    """``-h`` works after each command as well."""
    ended = run(*command, "-h")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"Usage: ssm-status-reporter {' '.join(command)} ")


def test_the_version_is_the_packages() -> None:
    """``--version`` says what is installed."""
    assert run("--version").stdout == f"ssm-status-reporter {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chek",), "No such command 'chek': did you mean 'check'?"),
        (("xyzzy",), "No such command 'xyzzy'"),
        (("check", "/etc/hosts"), "unexpected extra argument"),
        (("--confg", "x", "check"), "No such option"),
        (("--config",), "requires an argument"),
    ],
)
def test_wrong_usage_exits_2(arguments: tuple[str, ...], said: str) -> None:
    """A mistyped command line exits 2 and says what was mistyped."""
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_help_imports_nothing_that_it_does_not_need() -> None:
    """The command answers at once: what only the daemon needs is not loaded for its help."""
    heavy = {"aiohttp", "aiobotocore", "asyncio", "botocore", "msgspec", "rich", "sqlite3", "structlog", "yaml"}
    script = "import sys, ssm_status_reporter.cli.main; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=SECONDS_MAX, check=True
    )
    assert heavy.isdisjoint(ended.stdout.split())


def test_a_reader_that_went_away_is_no_reason_for_a_traceback() -> None:
    """``config schema | head -1`` prints one line and nothing about broken pipes."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [COMMAND, "config", "schema"],
            env=ENVIRONMENT,
            stdout=writing,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=SECONDS_MAX,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [("--help",), ("config", "show"), ("config", "schema"), ("check",)])
def test_output_that_cannot_be_written_is_one_line_and_exit_1(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """On a full disk a command says so, without a traceback, and does not pretend that all is well."""
    file = written(tmp_path, "")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            [COMMAND, "--config", file, *arguments],
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=SECONDS_MAX,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, "ssm-status-reporter: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_configuration_is_exit_78_even_where_nobody_can_be_told(
    tmp_path: Path, command: str, redirection: str
) -> None:
    """Standard error that is closed or full changes nothing of the exit code."""
    shell = f'"$0" --config "$1" {command} {redirection}'
    ended = subprocess.run(
        ["/bin/sh", "-c", shell, COMMAND, tmp_path / "none"], env=ENVIRONMENT, timeout=SECONDS_MAX, check=False
    )
    assert ended.returncode == 78


def test_what_an_encoding_does_not_have_is_shown_as_its_escape_and_yaml_and_json_stay_utf_8(
    tmp_path: Path,
) -> None:
    """On a Latin-1 terminal a text is legible; what programs read is UTF-8 there too."""
    file = written(tmp_path, "aws: {profile: größer…}\n")
    latin_1 = {"PYTHONIOENCODING": "latin-1:strict", "LC_ALL": "C.UTF-8"}
    shown = run("--config", file, "config", "show", **latin_1)
    assert (shown.returncode, "profile: größer…\n" in shown.stdout) == (0, True), shown.stderr
    checked = run("--config", file.rename(tmp_path / "c….yaml"), "check", **latin_1)
    assert (checked.returncode, checked.stdout) == (0, f"{tmp_path}/c\\u2026.yaml: ok\n"), checked.stderr


def test_an_interrupt_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a command ends it quietly."""
    fifo = tmp_path / "config.yaml"
    os.mkfifo(fifo)
    with (
        ThreadPoolExecutor() as opening,
        subprocess.Popen(
            [COMMAND, "--config", fifo, "check"], env=ENVIRONMENT, stderr=subprocess.PIPE, encoding="utf-8"
        ) as process,
    ):
        opened = opening.submit(os.open, fifo, os.O_WRONLY)  # returns once the command reads
        try:
            writing = opened.result(timeout=SECONDS_MAX)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=SECONDS_MAX)
            os.close(writing)
        finally:
            process.kill()
            os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))  # lets go of an open that still waits
    assert process.returncode == 1
    assert "Traceback" not in said
