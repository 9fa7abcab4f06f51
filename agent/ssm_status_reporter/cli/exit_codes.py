"""What the command's exit code means; the numbers from 64 on are those of sysexits.h."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Every code the command ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    """Wrong usage or a wrong argument; click's own."""
    UNAVAILABLE = 69
    """A service that the command needs is not available."""
    BAD_CONFIGURATION = 78
