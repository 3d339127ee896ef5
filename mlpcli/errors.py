"""Errors that are not bugs of the program, as one tree.

    MlpcliError
    ├── UsageError             a flag or an argument is wrong, or two contradict each other
    │   └── ConfigError        a config cannot be read, or a key or value is not allowed
    ├── DataError              data are missing, damaged, or of the wrong form
    │   └── UnavailableError   no source delivered the data
    ├── RunError               a run, checkpoint or folder is missing, damaged, in use or not writable
    └── DivergedError          the loss or a parameter is no longer a finite number

Every message is for the person who typed the command: what is wrong, where, and what to do. Only ``mlpcli.commands``
knows the exit status of each. Any other exception is a bug in mlpcli, except those that :func:`of_the_machine` names.
"""

from __future__ import annotations

import errno

# The disk is full or broken, or no more files can be opened.
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}


class MlpcliError(Exception):
    """The base class. Its message is for the user, who sees no traceback."""


class UsageError(MlpcliError):
    """A flag or an argument is wrong, or two of them contradict each other."""


class ConfigError(UsageError):
    """A config cannot be read, or one of its keys or values is not allowed."""


class DataError(MlpcliError):
    """Data are missing, damaged, or of the wrong form for their use."""


class UnavailableError(DataError):
    """None of the sources delivered the data; the message has one line per source."""


class RunError(MlpcliError):
    """A run, a checkpoint or a folder is missing, damaged, in use or not writable."""


class DivergedError(MlpcliError):
    """The loss or a parameter is no longer a finite number."""


def shown(text: object, max_length: int | None = None) -> str:
    """Return ``text``, which another person may have chosen, for a message: one line, no control characters.

    Text with a newline, an escape sequence or a mark that reverses the writing direction is quoted and escaped. Text
    longer than ``max_length`` characters is cut.
    """
    line = str(text)
    line = line if line and line.isprintable() else repr(line)
    return line if max_length is None or len(line) <= max_length else f"{line[: max_length - 3]}..."


def of_the_machine(error: Exception) -> str:
    """Return a message if ``error`` is of the machine's state, such as a full disk, and no bug; else empty text."""
    if not isinstance(error, OSError) or error.errno not in _MACHINE:
        return ""
    return f"{shown(error.filename)}: {error.strerror}" if error.filename else str(error.strerror)
