"""From text to configuration: the tree of the document walked along the schema, and everything wrong collected.

Rules:
  * All errors at once. Only what is no YAML at all ends the reading early.
  * A key at fault keeps its default, so that the rest can be looked at; rules between keys are not asked
    about keys at fault.
  * A section or list with nothing under it (all its keys commented out) is as good as absent.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TypeVar

from ssm_status_reporter.config.document import (
    Entry,
    MalformedError,
    Mapping,
    Node,
    Position,
    Scalar,
    Sequence,
    compose,
)
from ssm_status_reporter.config.errors import BadConfiguration, ConfigurationError, UnacceptableError
from ssm_status_reporter.config.keys import Branch, Leaf, keys, paths
from ssm_status_reporter.config.kinds import QUOTED_CHARS_MAX
from ssm_status_reporter.config.rules import Finding, conflicts
from ssm_status_reporter.config.schema import Configuration, Section

SectionType = TypeVar("SectionType", bound=Section)


def parse(text: str, name: str) -> Configuration:
    """The configuration that ``text`` describes; ``name`` is what errors call it. Raises `BadConfiguration`."""
    try:
        root = compose(text)
    except MalformedError as error:
        raise BadConfiguration(name, [error.error]) from error
    reading = _Reading()
    configuration = reading.section(Configuration, root, "")
    reading.cross_examine(conflicts(configuration))
    if reading.errors:
        raise BadConfiguration(
            name, sorted(reading.errors, key=lambda error: (error.line or 0, error.column or 0))
        )
    return configuration


class _Reading:
    """One walk; ``errors`` grows as it goes."""

    def __init__(self) -> None:
        self.errors: list[ConfigurationError] = []
        self._set_at: dict[str, Position] = {}

    def section(self, section: type[SectionType], node: Node | None, path: str) -> SectionType:
        """The section as far as it can be read; ``path`` is empty for the whole."""
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return section()
        if not isinstance(node, Mapping):
            example = f"such as `{keys(section)[0].name}: …`"
            if path:
                self._error(path, "must be a section", f"write its keys below it, {example}", node.position)
            else:
                self._error(path, "not a mapping of keys to values", f"write keys, {example}", node.position)
            return section()
        known = {key.name: key for key in keys(section)}
        values: dict[str, object] = {}
        for entry in node.entries:
            key = known.get(entry.key)
            if key is None:
                self._unknown(entry, path, list(known))
                continue
            key_path = _joined(path, entry.key)
            first = self._set_at.setdefault(key_path, entry.position)
            if first is not entry.position:
                self._error(
                    key_path, f"set twice, first on line {first.line}", "remove one of them", entry.position
                )
            self._value(key, entry, key_path, values)
        return section(**values)

    def cross_examine(self, findings: Iterator[Finding]) -> None:
        """Take the findings about keys that are good in themselves."""
        bad = {error.key for error in self.errors}
        for finding in findings:
            if bad.isdisjoint(finding.keys):
                position = next((self._set_at[key] for key in finding.keys if key in self._set_at), None)
                self._error(finding.keys[0], finding.reason, finding.hint, position)

    def _value(self, key: Leaf | Branch, entry: Entry, path: str, values: dict[str, object]) -> None:
        node = entry.node
        if key.nullable and isinstance(node, Scalar) and node.value is None:
            values[key.attribute] = None
        elif isinstance(key, Branch):
            values[key.attribute] = self.section(key.section, node, path)
        elif key.key.items_max is not None:
            values[key.attribute] = self._list(key, key.key.items_max, node, path)
        elif not isinstance(node, Scalar):
            what = "a section" if isinstance(node, Mapping) else "a list"
            self._error(path, f"must be one value, not {what}", None, node.position)
        else:
            try:
                values[key.attribute] = key.key.kind.read(node)
            except UnacceptableError as error:
                self._error(path, error.reason, error.hint, node.position)

    def _list(self, key: Leaf, items_max: int, node: Node, path: str) -> tuple[object, ...]:
        if isinstance(node, Scalar) and node.value is None:
            return ()
        if not isinstance(node, Sequence):
            hint = f"write [{node.text[:QUOTED_CHARS_MAX]}]" if isinstance(node, Scalar) else None
            self._error(path, "must be a list", hint, node.position)
            return ()
        if len(node.items) > items_max:
            self._error(path, f"{len(node.items)} entries, and at most {items_max} are taken", None, node.position)
            return ()
        values = []
        for index, item in enumerate(node.items):
            if not isinstance(item, Scalar):
                self._error(f"{path}[{index}]", "must be one value", None, item.position)
                continue
            try:
                values.append(key.key.kind.read(item))
            except UnacceptableError as error:
                self._error(f"{path}[{index}]", error.reason, error.hint, item.position)
        return tuple(values)

    def _unknown(self, entry: Entry, path: str, known: list[str]) -> None:
        written = entry.key[:QUOTED_CHARS_MAX]
        near = get_close_matches(written.lower().replace("-", "_"), known, n=1)
        parent, dot, name = written.rpartition(".")
        elsewhere = [f"`{known_path}`" for known_path in paths() if f".{known_path}".endswith(f".{written}")]
        if dot and _joined(path, written) in paths():
            hint = f"keys are nested: write `{name}` under `{_joined(path, parent)}`"
        elif near:
            hint = f"did you mean `{near[0]}`?"
        elif elsewhere:
            hint = f"`{written}` belongs at {' or '.join(elsewhere)}"
        else:
            hint = f"here are only {', '.join(known)}"
        self._error(_joined(path, written), f"unknown key {_quoted(written)}", hint, entry.position)

    def _error(self, key: str, reason: str, hint: str | None, position: Position | None) -> None:
        line, column = (position.line, position.column) if position else (None, None)
        self.errors.append(ConfigurationError(key, reason, hint, line, column))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _quoted(name: str) -> str:
    return f"`{name}`" if name.isprintable() else repr(name)
