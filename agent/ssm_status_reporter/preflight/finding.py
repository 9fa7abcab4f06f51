"""The finding: what was looked at, how it is, and what to do about it."""

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``remedy`` is None where nothing is to be done."""

    check: str
    ok: bool
    detail: str
    remedy: str | None = None


def fine(check: str, detail: str) -> Finding:
    """It is as it should be."""
    return Finding(check, True, detail)  # noqa: FBT003 - as declared


def amiss(check: str, detail: str, remedy: str) -> Finding:
    """It is not."""
    return Finding(check, False, detail, remedy)  # noqa: FBT003 - as declared
