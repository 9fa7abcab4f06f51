"""What a state file of the SSM Agent says, by recordings of the real one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_support import (
    FAILED,
    MULTI_FAILED,
    NODE,
    OK_SUCCESS,
    RECORDINGS,
    RUNNING,
    SUCCESS,
    State,
    changed,
    content,
    recording,
    state,
)
from ssm_status_reporter.config import AgentAssociations
from ssm_status_reporter.domain.report import RUN_STATUSES, Status
from ssm_status_reporter.domain.result import Edge, Result, Served, Writer
from ssm_status_reporter.sources.agent_message import SHARED_CHARS
from ssm_status_reporter.sources.agent_run import NoRun, Run, decode, is_run_name, result, wanted

SEEN_AT_MS = 1_800_000_000_000
MARKER = "M4rk-3r/of=a.secret"


def run_of(payload: bytes) -> Run:
    look = decode(payload)
    assert isinstance(look, Run)
    return look


def reported(payload: bytes, associations: AgentAssociations = AgentAssociations.AUTO) -> Result:
    return result(run_of(payload), NODE, associations, SEEN_AT_MS)


def failed_with(error_text: str, steps: int = 1, **configuration: Any) -> State:
    """A recorded failed run whose steps have this error text."""
    failed = state(FAILED)
    (step,) = failed["InstancePluginsInformation"]
    step["Result"]["standardError"] = error_text
    step["Configuration"] |= configuration
    failed["InstancePluginsInformation"] = [step | {"Id": f"step{number}"} for number in range(steps)]
    return failed


def test_a_failed_run_is_reported_as_the_agent_does() -> None:
    """The message says how many steps ran, how many failed, which and why, in the agent's own words."""
    report = reported(recording(FAILED)).report
    assert report.status == "Failed"
    assert report.message == (
        "1 out of 1 plugin processed, 0 success, 1 failed, 0 timedout, 0 skipped. "
        "\nThe operation bad failed because boom\nfailed to run commands: exit status 7."
    )


def test_a_run_of_several_steps_names_the_failed_one() -> None:
    """Of three steps the third failed: the operator reads which, and why."""
    message = reported(recording(MULTI_FAILED)).report.message
    assert message == (
        "3 out of 3 plugins processed, 2 success, 1 failed, 0 timedout, 0 skipped. "
        "\nThe operation third failed because failed to run commands: exit status 3."
    )


def test_a_successful_run_keeps_the_agents_trailing_blank() -> None:
    """The service finds our message equal to the agent's own, to the letter."""
    report = reported(recording(SUCCESS)).report
    assert report.status == "Success"
    assert report.message == "1 out of 1 plugin processed, 1 success, 0 failed, 0 timedout, 0 skipped. "


def test_a_result_carries_what_the_outbox_needs() -> None:
    """The run's association, its date from the last step's end, and safe facts to find it by."""
    handed_in = reported(recording(OK_SUCCESS))
    assert (handed_in.association.instance_id, handed_in.association.document) == (NODE, "Ok-Doc")
    assert (handed_in.source, handed_in.writer, handed_in.edge) == ("ssm_agent", Writer.SECOND, Edge.LEADING)
    info = json.loads(handed_in.report.additional_info or "")
    assert info.pop("reporter").startswith("ssm-status-reporter/")
    assert info == {
        "source": "ssm_agent",
        "run_status": "Success",
        "run_id": run_of(recording(OK_SUCCESS)).run_id,
        "association_id": run_of(recording(OK_SUCCESS)).association_id,
        "document_version": "1",
    }


@pytest.mark.parametrize(
    ("associations", "served"),
    [
        (AgentAssociations.AUTO, Served.ASKED),
        (AgentAssociations.LEGACY, Served.SUPPOSED),
        (AgentAssociations.ALL, Served.SUPPOSED),
    ],
)
def test_only_auto_asks_the_service_which_runs_are_its_own(
    associations: AgentAssociations, served: Served
) -> None:
    """With auto the service decides whose run it is; with legacy and all nobody is asked."""
    assert reported(recording(SUCCESS), associations).served is served


def test_legacy_takes_only_runs_whose_association_is_the_document() -> None:
    """With legacy, a run under a UUID is left alone; auto and all take both."""
    legacy, other = run_of(recording(SUCCESS)), run_of(recording(OK_SUCCESS))
    assert [wanted(run, AgentAssociations.LEGACY) for run in (legacy, other)] == [True, False]
    others = (AgentAssociations.AUTO, AgentAssociations.ALL)
    assert all(wanted(run, associations) for run in (legacy, other) for associations in others)


def test_the_date_is_the_latest_end_of_a_step() -> None:
    """The status is dated when the last step ended, not when it was seen."""
    assert reported(recording(FAILED)).report.observed_at_ms == 1_795_353_838_082
    assert run_of(recording(MULTI_FAILED)).ended_at_ms == 1_795_353_842_428


@pytest.mark.parametrize("end", ["0001-01-01T00:00:00Z", "", "yesterday"])
def test_a_run_without_an_end_is_dated_when_it_is_seen(end: str) -> None:
    """Go's zero time, and what is no date, mean none."""
    failed = state(FAILED)
    failed["InstancePluginsInformation"][0]["Result"]["endDateTime"] = end
    assert reported(content(failed)).report.observed_at_ms == SEEN_AT_MS


@pytest.mark.parametrize("status", [*RUN_STATUSES, "", "Invented"])
def test_every_status_is_final_or_not_as_the_agent_means_it(status: str) -> None:
    """A run that still goes on, or waits for a reboot, is not reported; every end is, as the API names it."""
    run = run_of(changed(FAILED, status, "Some-Doc", "1"))
    assert run.is_final == (RUN_STATUSES.get(status, Status.PENDING) is not Status.PENDING)
    if run.is_final:
        assert result(run, NODE, AgentAssociations.AUTO, 0).report.status == RUN_STATUSES[status]


def test_a_restart_of_the_agent_is_the_same_run() -> None:
    """RunCount + 1 is no news: not while the run goes on, and not once it is over."""
    for status in ("InProgress", "Failed"):
        first, again = (run_of(changed(FAILED, status, "Some-Doc", "1", count)) for count in (0, 1))
        assert first == again


@pytest.mark.parametrize("kind", ["SendCommand", "StartSession", "CancelComamnd", ""])
def test_other_documents_are_no_runs(kind: str) -> None:
    """Run Command and sessions share the directory, and are left alone."""
    assert decode(content(state(SUCCESS) | {"DocumentType": kind})) is NoRun.NOT_A_RUN


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*/*.json")), ids=lambda path: path.name)
def test_every_recording_is_understood(path: Any) -> None:
    """Whatever the real agent wrote is decoded, and is final exactly when the agent was done."""
    run = run_of(path.read_bytes())
    assert run.is_final == (json.loads(path.read_bytes())["DocumentInformation"]["DocumentStatus"] != "InProgress")
    assert run.is_reportable


@pytest.mark.parametrize("pattern", [SUCCESS, RUNNING, MULTI_FAILED])
def test_no_cut_content_passes_for_a_whole_one(pattern: str) -> None:
    """A file met while the agent writes it, at any length, means wait."""
    payload = recording(pattern).rstrip()
    assert {decode(payload[:length]) for length in range(len(payload))} == {NoRun.TORN}
    assert decode(payload + b"\0" * 4096) is NoRun.TORN


@given(st.binary(max_size=200))
def test_no_bytes_are_an_error(payload: bytes) -> None:
    """Whatever stands in a file of that directory, the daemon goes on."""
    assert isinstance(decode(payload), NoRun)


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b'{"DocumentType": 3}',
        b'{"DocumentType": "Association"}',
        b'{"DocumentType": "Association", "DocumentInformation": {"DocumentName": "X", "DocumentStatus": 4}}',
        b'{"DocumentType": "Association", "Deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_json_and_no_state_is_told_from_a_torn_file(payload: bytes) -> None:
    """An agent that writes another format is said, not waited for."""
    assert decode(payload) is NoRun.UNKNOWN_FORMAT


def test_a_message_beyond_the_limit_still_names_every_failed_step() -> None:
    """Twelve steps with long error texts: the operator reads each one's name, and each text's two ends."""
    error_text = "first line of trouble " + "x" * 3900 + " exit status 7"
    message = reported(content(failed_with(error_text, steps=12))).report.message
    assert len(message) <= 1024
    for number in range(12):
        assert f"The operation step{number} failed because first line" in message
    assert message.count("[cut]") == 12
    assert message.endswith("exit status 7.")


def test_one_long_error_text_is_cut_in_its_middle() -> None:
    """The first error and the exit status both stay readable."""
    message = reported(content(failed_with("it began so " + "y" * 5000 + " and ended so"))).report.message
    assert len(message) == 1024
    assert "because it began so yy" in message
    assert message.endswith("yy and ended so.")


def test_hundreds_of_failed_steps_are_cut_visibly() -> None:
    """No number of steps breaks the API's limit."""
    message = reported(content(failed_with("boom", steps=500))).report.message
    assert len(message) <= 1024
    assert message.endswith("[cut]")


def test_a_step_without_an_error_text_tells_its_exit_code() -> None:
    """Where the agent itself would say nothing, the operator reads the exit code."""
    failed = failed_with("")
    message = reported(content(failed)).report.message
    assert message.endswith("\nThe operation step0 failed because of exit code 7.")
    failed["InstancePluginsInformation"][0]["Result"]["error"] = "Plugin with name aws:other not found"
    message = reported(content(failed)).report.message
    assert message.endswith("\nThe operation step0 failed because Plugin with name aws:other not found.")


@pytest.mark.parametrize(("status", "words"), [("TimedOut", "timed out"), ("Cancelled", "was cancelled")])
def test_a_step_that_did_not_come_to_its_end_is_named(status: str, words: str) -> None:
    """The agent counts such steps without a name; the operator reads which it was."""
    ended = state(FAILED)
    ended["DocumentInformation"]["DocumentStatus"] = status
    ended["InstancePluginsInformation"][0]["Result"]["status"] = status
    assert reported(content(ended)).report.message.endswith(f"\nThe operation bad {words}.")


def test_a_run_that_failed_before_any_step_says_so() -> None:
    """The agent's worker died: no step tells why, and the operator reads where to look."""
    died = state(RUNNING)
    died["DocumentInformation"]["DocumentStatus"] = "Failed"
    assert reported(content(died)).report.message == (
        "0 out of 1 plugin processed, 0 success, 0 failed, 0 timedout, 0 skipped. "
        "\nNo step reported why; see the SSM Agent's log on the node."
    )
    died["InstancePluginsInformation"] = None
    assert reported(content(died)).report.message.startswith("0 out of 0 plugin processed")


def with_marker(value: Any) -> Any:
    """The same shape, with the marker in every text of it."""
    match value:
        case dict():
            return {name: with_marker(inner) for name, inner in value.items()}
        case list():
            return [*(with_marker(inner) for inner in value), MARKER]
        case str() | None:
            return f"{value} {MARKER}"
        case _:
            return value


def test_nothing_of_the_configuration_is_in_a_run() -> None:
    """Secrets stand everywhere in the configuration and in the output: a run carries none of them."""
    for pattern in (SUCCESS, FAILED, MULTI_FAILED):
        marked = state(pattern)
        for step in marked["InstancePluginsInformation"]:
            step["Configuration"] = with_marker(step["Configuration"])
            step["Result"] |= {"output": MARKER, "standardOutput": MARKER}
        assert MARKER not in repr(run_of(content(marked)))
        assert run_of(content(marked)) == run_of(recording(pattern))


@pytest.mark.parametrize(
    "error_text",
    [
        f"curl: bad password {MARKER}",
        f"+ mysql -p'{MARKER}'\nfailed",
        f"{MARKER}",
        f"Invalid format in plugin properties map[runCommand:[use {MARKER}]];",
    ],
)
def test_an_error_text_that_repeats_the_configuration_is_masked(error_text: str) -> None:
    """A shell that quotes its command line in an error does not carry the secret to the service."""
    message = reported(
        content(failed_with(error_text, Properties={"runCommand": [f"use {MARKER}"]}))
    ).report.message
    shared = {MARKER[at : at + SHARED_CHARS] for at in range(len(MARKER) - SHARED_CHARS + 1)}
    assert not any(part in message for part in shared)
    assert "***" in message
    assert "The operation step0 failed because" in message


def test_an_error_text_that_repeats_another_steps_configuration_is_masked() -> None:
    """A secret that one step sets and another one trips over does not reach the service either."""
    several = state(MULTI_FAILED)
    first, *_, failed = several["InstancePluginsInformation"]
    first["Configuration"]["Properties"] = {"runCommand": [f"echo {MARKER} >/etc/my.cnf"]}
    failed["Result"]["standardError"] = f"no login with {MARKER}"
    message = reported(content(several)).report.message
    assert message.endswith("The operation third failed because no login with ***.")


def test_control_characters_do_not_reach_a_terminal() -> None:
    """An error text cannot colour, ring or overwrite; its lines stay lines."""
    message = reported(content(failed_with("\x1b[31mred\x07\r\n\tnext \u202e\x00"))).report.message
    assert r"because \x1b[31mred\x07\r" in message
    assert "\n\tnext" in message
    assert all(char.isprintable() or char in "\n\t" for char in message)


def test_a_document_that_the_api_cannot_name_is_told() -> None:
    """A name outside the API's pattern is not sent there."""
    assert not run_of(changed(SUCCESS, "Success", "no such/na me", "1")).is_reportable


def test_runs_of_associations_are_known_by_their_names() -> None:
    """Where there is no content to tell, the file's name does."""
    assert is_run_name("AWS-RunShellScript.2026-11-22T13-23-53.355Z")
    assert is_run_name("89899cee-1f91-5621-acbd-0bee29b34fa0.2026-11-22T13-24-00.383Z")
    assert not is_run_name("89899cee-1f91-5621-acbd-0bee29b34fa0")
    assert not is_run_name("user-0123456789abcdef0")
