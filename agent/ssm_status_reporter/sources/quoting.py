"""Foreign text as it may stand in a reason, a log line or a terminal: short and without control characters."""

from typing import Final

QUOTED_CHARS_MAX: Final = 60
"""What is shown of a foreign text. A reader recognises it; a log line stays a line."""


def printable(text: str) -> str:
    r"""The text with everything that does not print as its escape: ``\n``, ``\x1b``, ``\udcff``.

    Bytes of a file name that are not UTF-8 arrive as lone surrogates (surrogateescape) and leave as escapes.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def shortened(text: str) -> str:
    """The text, printable, without its middle when it is long."""
    if len(text) <= QUOTED_CHARS_MAX:
        return printable(text)
    half = QUOTED_CHARS_MAX // 2
    return f"{printable(text[:half])}…{printable(text[-half:])}"


def quoted(text: str) -> str:
    """As `shortened`, in quotation marks; of a shortened text the length is said."""
    length = f" ({len(text)} characters)" if len(text) > QUOTED_CHARS_MAX else ""
    return f"'{shortened(text)}'{length}"
