"""README's runbook against the code: what it quotes is what an operator meets, and nothing they meet is missing."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import ssm_status_reporter
from ssm_status_reporter.cli.main import COMMANDS
from ssm_status_reporter.config.keys import paths
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.outcome import (
    Outcome,
    Refused,
    Scope,
    Unavailable,
    Unreachable,
    Unserved,
    Withheld,
)
from ssm_status_reporter.ssm.answer import Break, broken_off, update_outcome
from ssm_status_reporter.ssm.codes import MEANINGS, Operation
from ssm_status_reporter.ssm.reply import Reply

README: Final = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
RUNBOOK: Final = README.partition("## Runbook")[2].partition("\n## ")[0]
DOC: Final = Association("mi-0123456789abcdef0", "My-Doc")
BREAKS: Final = {kind.value: kind for kind in Break}
"""Codes of calls without a reply."""
NOTHING_ASKED: Final = {
    "NoCredentials": Scope.CREDENTIALS,
    "CredentialsExpired": Scope.CREDENTIALS,
    "FilesUnreadable": Scope.ENDPOINT,
}
"""Codes of holds for which nothing was asked of the service."""


def _rows(head: str) -> list[list[str]]:
    """The cells of each row of the table whose heading begins so."""
    lines = iter(RUNBOOK.splitlines())
    for line in lines:
        if line.startswith(f"| {head}"):
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")])
    assert rows, f"no table {head}"
    return rows


def _quoted(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def _outcome(code: str) -> Outcome:
    """What the daemon makes of a call that ends with this code."""
    if code in BREAKS:
        return broken_off(BREAKS[code], "", Operation.UPDATE)
    page = re.fullmatch(r"HTTP(\d{3})", code)
    status = int(page[1]) if page else 500 if code.startswith("Internal") else 400
    body = b"<html>" if page else json.dumps({"__type": code}).encode()
    return update_outcome(Reply(status, {}, body, 0, 0), DOC)


def _scope(outcome: Outcome) -> Scope | None:
    match outcome:
        case Withheld(scope):
            return scope
        case Unreachable() | Unavailable():
            return Scope.ENDPOINT
        case _:
            return None


def _texts() -> Iterator[str]:
    """Every text that the program's source holds."""
    for path in Path(ssm_status_reporter.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("row", _rows("hold"), ids=lambda row: row[1])
def test_each_code_leads_to_the_hold_it_stands_beside(row: list[str]) -> None:
    """Who looks up the code that `status` shows finds the scope that `status` shows."""
    for code in _quoted(row[1]):
        scope = NOTHING_ASKED[code] if code in NOTHING_ASKED else _scope(_outcome(code))
        assert scope is Scope(row[0]), code


def test_each_hold_has_its_row() -> None:
    """No hold is without a remedy, and no kind of error that leads to one."""
    rows = _rows("hold")
    assert {row[0] for row in rows} == {scope.value for scope in Scope}
    told = {MEANINGS[code] for row in rows for code in _quoted(row[1]) if code in MEANINGS}
    assert told == {meaning for code, meaning in MEANINGS.items() if _scope(_outcome(code))}
    assert set(BREAKS) <= {code for row in rows for code in _quoted(row[1])}


def test_each_code_leads_to_parking_or_death_as_told() -> None:
    """Who looks up a dead letter's code finds why it ended, at once or after its time."""
    rows = _rows("parked")
    told = {code: row[0] for row in rows for code in _quoted(row[1])}
    for code, fate in told.items():
        assert isinstance(_outcome(code), Refused if fate == "dead" else Unserved), code
    ends = {meaning for code, meaning in MEANINGS.items() if isinstance(_outcome(code), Refused | Unserved)}
    assert {MEANINGS[code] for code in told} == ends
    assert any(row[1] == "any other" for row in rows)
    assert isinstance(_outcome("SomethingUndocumented"), Unserved)


def test_what_the_journal_is_quoted_to_say_it_says() -> None:
    """Who searches the runbook for a line of the journal finds it."""
    quotes = [quote for row in _rows("the journal") for quote in _quoted(row[0])]
    quotes.append(*(quote for quote in _quoted(RUNBOOK) if "throttles" in quote))
    texts = list(_texts())
    assert [quote for quote in quotes if not any(text.startswith(quote) for text in texts)] == []


def test_keys_and_commands_it_names_exist() -> None:
    """No remedy names a configuration key or a command that is not there."""
    known = [f"{path}." for path in paths()]
    sections = {path.partition(".")[0] for path in known}
    prose = re.sub("```.*?```", "", README, flags=re.DOTALL)
    named = [quote for quote in _quoted(prose) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", quote)]
    ours = [key for key in named if key.partition(".")[0] in sections]
    assert ours
    assert [key for key in ours if not any(path.startswith(f"{key}.") for path in known)] == []
    commands = re.findall(r"`ssm-status-reporter ([a-z-]+)", README)
    assert set(commands) <= set(COMMANDS)
