"""The message of an agent's run, built as the SSM Agent builds the one it sends itself. Pure.

Rules:
  * Where the agent could have reported, the text is its own to the letter, the trailing blank included, so that
    the service finds the two unchanged: how many steps ran and how they ended, then which failed and why.
  * Where it could not, the text says what the agent's would not: a step that left no error text (its exit code),
    one that timed out or was cancelled, a run that ended before any step told why. A text beyond the API's limit
    is shortened reason by reason, so that every failed step is still named.
  * Of a step, its identifier, its exit code and its error text are quoted, as the agent does. Its output is not.
  * An error text may repeat what was run, by its own step or by another. A word of it that shares `SHARED_CHARS`
    characters in a row with a step's configuration is masked: configurations hold secrets.

Source: amazon-ssm-agent 3.3, agent/association/processor (what it counts, and its wording).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ssm_status_reporter.domain.limits import STATUS_TEXT_CHARS_MAX
from ssm_status_reporter.domain.report import cut

SHARED_CHARS: Final = 8
"""Fewer in a row are an ordinary word."""
MASK: Final = "***"
_GAP: Final = " … [cut] … "
_NAMES: Final = frozenset({"PluginName", "PluginID"})
"""Members of a configuration that say which step it is; an error text may name it."""
_WORD: Final = re.compile(r"\S+")
_LEFT_AS_IT_IS: Final = frozenset("\n\t")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run, as far as a message tells of it."""

    identifier: str
    status: str
    """Empty: it did not run."""
    code: int
    reason: str
    """Why it failed, fit to be shown; empty when it left no error text."""


def message(run_status: str, steps: Sequence[Step]) -> str:
    """The message, within the API's limit."""
    head = _head(steps)
    sentences = [_sentence(step) for step in steps if step.status in _TOLD]
    if not sentences and run_status in _TOLD:
        sentences = [("\nNo step reported why; see the SSM Agent's log on the node", "")]
    if not sentences:
        return cut(head)
    fixed = len(head) + sum(len(opening) + len(".") for opening, _ in sentences)
    share = _share([len(reason) for _, reason in sentences], STATUS_TEXT_CHARS_MAX - fixed)
    return cut(head + "".join(f"{opening}{_shortened(reason, share)}." for opening, reason in sentences))


def shown(error_texts: Sequence[str], configurations: Sequence[Any]) -> list[str]:
    """Error texts fit to be shown: nothing of any step's configuration in them, and no control characters.

    ``configurations`` is the decoded JSON of each step's configuration.
    """
    secrets = _shared(error_texts, configurations)
    return [_printable(_masked(text, secrets)) for text in error_texts]


_TOLD: Final = {"Failed": "failed", "TimedOut": "timed out", "Cancelled": "was cancelled"}
"""How a step or a run may end so that there is something to explain."""


def _head(steps: Sequence[Step]) -> str:
    def count(*statuses: str) -> int:
        return sum(step.status in statuses for step in steps)

    plural = "s" if len(steps) > 1 else ""
    return (
        f"{len(steps) - count('')} out of {len(steps)} plugin{plural} processed, "
        f"{count('Success', 'SuccessAndReboot', 'PassedAndReboot')} success, {count('Failed')} failed, "
        f"{count('TimedOut')} timedout, {count('Skipped')} skipped. "
    )


def _sentence(step: Step) -> tuple[str, str]:
    """What is said of a step: the opening, and the reason that may be shortened."""
    opening = f"\nThe operation {step.identifier} {_TOLD[step.status]}"
    if step.status != "Failed":
        return opening, ""
    return f"{opening} because ", step.reason or f"of exit code {step.code}"


def _share(lengths: Sequence[int], room: int) -> int:
    """How long each may be so that all fit; the short ones leave their rest to the others."""
    waiting = sorted(lengths)
    while waiting:
        share = max(0, room // len(waiting))
        if waiting[0] > share:
            return share
        room -= waiting.pop(0)
    return STATUS_TEXT_CHARS_MAX


def _shortened(text: str, length: int) -> str:
    """The text without its middle: the first error stands at its start, and what came of it at its end."""
    if len(text) <= length:
        return text
    kept = length - len(_GAP)
    if kept < len(_GAP):
        return text[:length]
    return f"{text[: kept // 2]}{_GAP}{text[-(kept - kept // 2) :]}"


def _shared(texts: Sequence[str], configurations: Sequence[Any]) -> set[str]:
    """The runs of `SHARED_CHARS` characters that a text has in common with a configuration."""
    runs = {run for text in texts for run in _runs(text)}
    if not runs:
        return runs
    configured = (part for configuration in configurations for part in _texts(configuration))
    return {run for part in configured for run in _runs(part) if run in runs}


def _runs(text: str) -> Iterator[str]:
    return (text[at : at + SHARED_CHARS] for at in range(len(text) - SHARED_CHARS + 1))


def _masked(text: str, secrets: set[str]) -> str:
    if not secrets:
        return text
    return _WORD.sub(lambda word: word[0] if secrets.isdisjoint(_runs(word[0])) else MASK, text)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in _LEFT_AS_IT_IS else char.encode("unicode_escape").decode()
        for char in text
    )


def _texts(configuration: Any) -> list[str]:
    """Every text and number in it; level by level, so that no depth exhausts the stack."""
    found: list[str] = []
    if isinstance(configuration, dict):
        configuration = [value for name, value in configuration.items() if name not in _NAMES]
    level: list[Any] = [configuration]
    while level:
        deeper: list[Any] = []
        for value in level:
            match value:
                case dict():
                    deeper += value.values()
                case list():
                    deeper += value
                case str():
                    found.append(value)
                case int() | float():
                    found.append(str(value))
        level = deeper
    return found
