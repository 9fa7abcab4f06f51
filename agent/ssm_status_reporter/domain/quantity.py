"""Durations and sizes as an operator writes them: a whole number and its unit, ``250ms`` or ``64KiB``.

Rules:
  * One number, one unit, nothing else: no sign, no fraction, no blank. ``1500ms`` says what ``1.5s`` would.
  * Units are spelled one way: ``ms s m h``, ``B KiB MiB``. ``kb`` and ``M`` mean different things to
    different readers, so neither is taken.
  * Inside, durations are milliseconds and sizes bytes, as ``int``.
"""

import re
from collections.abc import Mapping
from typing import Final

DURATION_UNITS_MS: Final[Mapping[str, int]] = {"ms": 1, "s": 1000, "m": 60 * 1000, "h": 60 * 60 * 1000}
"""Milliseconds in each unit, smallest first."""

SIZE_UNITS_BYTES: Final[Mapping[str, int]] = {"B": 1, "KiB": 1024, "MiB": 1024 * 1024}
"""Bytes in each unit, smallest first."""

DIGITS_MAX: Final = 12
"""Digits in a quantity: beyond any use, and short enough that reading one costs nothing."""

DURATION_PATTERN: Final = rf"^[0-9]{{1,{DIGITS_MAX}}}({'|'.join(DURATION_UNITS_MS)})$"
"""A duration as a regular expression, in the dialect that Python and JSON Schema share."""

SIZE_PATTERN: Final = rf"^[0-9]{{1,{DIGITS_MAX}}}({'|'.join(SIZE_UNITS_BYTES)})$"
"""A size as a regular expression, likewise."""

_QUOTED_CHARS_MAX: Final = 40


def duration_ms(text: str) -> int:
    """Milliseconds in a duration such as ``250ms``, ``2s``, ``5m`` or ``24h``; ValueError says what to write."""
    return _quantity(text, "duration", DURATION_PATTERN, DURATION_UNITS_MS, "2s")


def size_bytes(text: str) -> int:
    """Bytes in a size such as ``512B``, ``64KiB`` or ``1MiB``; ValueError says what to write."""
    return _quantity(text, "size", SIZE_PATTERN, SIZE_UNITS_BYTES, "64KiB")


def duration_text(milliseconds: int) -> str:
    """The duration in the largest unit that divides it; what :func:`duration_ms` reads back as the same."""
    return _text(milliseconds, DURATION_UNITS_MS, "s")


def size_text(count: int) -> str:
    """The size in the largest unit that divides it; what :func:`size_bytes` reads back as the same."""
    return _text(count, SIZE_UNITS_BYTES, "B")


def _quantity(text: str, kind: str, pattern: str, units: Mapping[str, int], example: str) -> int:
    # fullmatch, because a bare $ also matches before a trailing line feed.
    matched = re.fullmatch(pattern, text)
    if matched is None:
        raise ValueError(
            f"not a {kind}: {text[:_QUOTED_CHARS_MAX]!r}; "
            f"write a whole number and one of {', '.join(units)}, such as {example}"
        )
    unit = matched.group(1)
    return int(text.removesuffix(unit)) * units[unit]


def _text(amount: int, units: Mapping[str, int], unit_of_zero: str) -> str:
    if amount < 0:
        raise ValueError(f"a quantity is not negative: {amount}")
    if amount == 0:
        return f"0{unit_of_zero}"
    unit = max((unit for unit in units if amount % units[unit] == 0), key=units.__getitem__)
    return f"{amount // units[unit]}{unit}"
