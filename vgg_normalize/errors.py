"""What can go wrong, and the exit code that the command line gives it.

Every message is one line: what was expected, what came, what to do.
"""

from __future__ import annotations


class Error(ValueError):
    """Base of all errors that are the user's to mend."""

    exit_code = 1


class UsageError(Error):
    """A flag, an option or the environment of the process is invalid."""

    exit_code = 1


class ImagesError(Error):
    """The images cannot be read, or there are none."""

    exit_code = 2


class NetworkError(Error):
    """The weights or the architecture cannot be used."""

    exit_code = 3


class OutputError(Error):
    """The output cannot be written, or exists already."""

    exit_code = 4


class DevicesError(Error):
    """A device or a worker is missing or was lost."""

    exit_code = 5


class VerificationError(Error):
    """The normalised network is not what it must be."""

    exit_code = 6


class NumericalError(Error):
    """A loss or a gradient became NaN or infinite."""

    exit_code = 6
