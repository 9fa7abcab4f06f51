"""A YAML text as a tree in which every key and value knows its line.

Rules:
  * What YAML 1.1 makes of a scalar (``on`` is true, ``1:30`` is 90) stands beside the text as written:
    whoever reads the scalar decides, and can say what happened.
  * Only what a configuration needs: one document, no aliases (they can make a small file expand without
    end), no tags, bounded depth.
  * The tree keeps every entry of a mapping, repeated keys included; the reader of the tree refuses those.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import yaml

from ssm_status_reporter.config.errors import ConfigurationError

DEPTH_MAX: Final = 16
"""Nested mappings and lists; the configuration itself is four deep."""

_NULL: Final = "tag:yaml.org,2002:null"
_BOOLEAN: Final = "tag:yaml.org,2002:bool"
_INTEGER: Final = "tag:yaml.org,2002:int"
_NUMBER: Final = "tag:yaml.org,2002:float"
_TEXTS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "timestamp", "merge", "value"))
_COLLECTIONS: Final = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})

# What PyYAML says, and what an administrator can do about it; the first that occurs in the message counts.
_HINTS: Final = (
    (r"character '\t'", "indent with spaces, not tabs"),
    ("scanning an alias", "a value that starts with * must be quoted"),
    ("cannot start any token", "a value that starts with this character must be quoted"),
    ("mapping values are not allowed", "check the indentation, and quote a value that holds a colon and a blank"),
    ("could not find expected ':'", "a key is followed by a colon and a blank"),
    ("but found '<block mapping start>'", "check the indentation: keys of one section start in one column"),
    ("found unexpected end of stream", "a quote or bracket is not closed"),
)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the text; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value: ``text`` as written (unquoted), ``value`` as YAML 1.1 reads it."""

    text: str
    value: str | float | bool | None
    position: Position


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple["Node", ...]
    position: Position


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``key: value`` of a mapping; ``position`` is the key's."""

    key: str
    node: "Node"
    position: Position


@dataclass(frozen=True, slots=True)
class Mapping:
    """A section, in the order written."""

    entries: tuple[Entry, ...]
    position: Position


Node = Scalar | Sequence | Mapping


class MalformedError(Exception):
    """The text is not YAML, or uses more of YAML than a configuration needs. ``error`` says where and why."""

    def __init__(self, error: ConfigurationError) -> None:
        self.error = error
        super().__init__(error)


def compose(text: str) -> Node | None:
    """The tree of ``text``, or None when there is nothing in it. Raises `MalformedError`."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MalformedError(
            ConfigurationError(
                "", f"the character U+{ord(text[error.position]):04X} is not allowed in YAML", line=line
            )
        ) from error
    except yaml.MarkedYAMLError as error:
        raise MalformedError(_syntax_error(error)) from error
    return None if root is None else _node(root)


class _Loader(yaml.SafeLoader):
    """Composes nodes; refuses aliases and depth while the nodes are being made, not after."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs lack it
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read here: write it out", mark)
        if self._depth == DEPTH_MAX:
            raise yaml.composer.ComposerError(None, None, f"nested more than {DEPTH_MAX} deep", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _syntax_error(error: yaml.MarkedYAMLError) -> ConfigurationError:
    # The context says what was being read, the problem what was met; neither quotes the line itself.
    said = ", ".join(part for part in (error.context, error.problem) if part)
    mark = error.problem_mark or error.context_mark
    hint = next((hint for part, hint in _HINTS if part in said), None)
    if "expected a single document" in said:
        said, hint = "more than one YAML document", "remove the line `---` and what does not belong"
    return ConfigurationError(
        "", f"not YAML: {said}", hint, mark.line + 1 if mark else None, mark.column + 1 if mark else None
    )


def _node(node: yaml.Node) -> Node:
    position = Position(node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, position)
    if node.tag not in _COLLECTIONS:
        raise _unwanted(f"the tag {node.tag} is not read here", position)
    if isinstance(node, yaml.SequenceNode):
        return Sequence(tuple(_node(item) for item in node.value), position)
    return Mapping(tuple(_entries(node.value)), position)


def _entries(pairs: Iterable[tuple[yaml.Node, yaml.Node]]) -> Iterable[Entry]:
    for key, value in pairs:
        position = Position(key.start_mark.line + 1, key.start_mark.column + 1)
        if not isinstance(key, yaml.ScalarNode):
            raise _unwanted("a key must be a plain name", position)
        yield Entry(key.value, _node(value), position)


_constructor: Final = yaml.constructor.SafeConstructor()


def _scalar(node: yaml.ScalarNode, position: Position) -> Scalar:
    text: str = node.value
    if node.tag in _TEXTS:
        return Scalar(text, text, position)
    if node.tag == _NULL:
        return Scalar(text, None, position)
    if node.tag == _BOOLEAN:
        return Scalar(text, yaml.constructor.SafeConstructor.bool_values.get(text.lower(), text), position)
    if node.tag in {_INTEGER, _NUMBER}:
        construct = _constructor.construct_yaml_int if node.tag == _INTEGER else _constructor.construct_yaml_float
        try:
            return Scalar(text, construct(node), position)
        except (ValueError, OverflowError):  # looks like a number and is none, or is beyond Python's: a text
            return Scalar(text, text, position)
    raise _unwanted(f"the tag {node.tag} is not read here", position)


def _unwanted(reason: str, position: Position) -> MalformedError:
    return MalformedError(ConfigurationError("", reason, line=position.line, column=position.column))
