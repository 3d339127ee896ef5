"""``python -m mlpcli``, and the entry point of the command ``mlpcli``."""

from __future__ import annotations

import signal

# Until main sees to it, Ctrl-C ends the program at once: its imports have nothing to undo, and no traceback to show.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from mlpcli.commands import main  # noqa: E402

if __name__ == "__main__":
    main()
