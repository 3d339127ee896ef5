"""Errors that are not bugs of the program, as one tree.

    MlpcliError
    ├── UsageError             a flag or an argument, or two that do not go together
    │   └── ConfigError        a config: its file, a key or a value
    ├── DataError              data that is not what it should be, or does not fit what it is wanted for
    │   └── UnavailableError   no source delivers the data
    ├── RunError               a run, checkpoint or folder: missing, damaged, in use or not writable
    └── DivergedError          training left the finite numbers

Every message is for the person who typed the command: what is wrong, where, and what to do about it. Which exit status
an error becomes is decided in ``mlpcli.commands`` alone. Anything that is not an ``MlpcliError`` is a bug of ours.
"""

from __future__ import annotations


class MlpcliError(Exception):
    """The root of the tree. Its message is for the user, who sees no traceback."""


class UsageError(MlpcliError):
    """A flag or an argument is wrong, or two of them contradict each other."""


class ConfigError(UsageError):
    """A config cannot be read, or one of its keys or values is not allowed."""


class DataError(MlpcliError):
    """Data cannot be had, is damaged, or does not fit what it is wanted for."""


class UnavailableError(DataError):
    """None of the sources delivered the data; the message has one line a source."""


class RunError(MlpcliError):
    """A run, a checkpoint or a folder is missing, damaged, in use or not writable."""


class DivergedError(MlpcliError):
    """The loss or a parameter is no longer a finite number."""


def shown(text: object, max_length: int | None = None) -> str:
    """Return ``text``, which another person may have chosen, for a message: one line, no control characters.

    A name with a newline, an escape sequence or a mark that turns the writing round is quoted and escaped; what is
    longer than ``max_length`` characters is cut.
    """
    words = str(text)
    words = words if words and words.isprintable() else repr(words)
    return words if max_length is None or len(words) <= max_length else f"{words[: max_length - 3]}..."
