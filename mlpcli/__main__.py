"""``python -m mlpcli``, and the entry point of the command ``mlpcli``."""

from __future__ import annotations

from mlpcli.commands import main

if __name__ == "__main__":
    main()
