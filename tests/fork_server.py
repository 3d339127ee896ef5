"""Run commands in processes forked from one that has imported everything: they start quickly, and can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

# Memory, where file operations are much faster than on a disk, in the same order.
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextmanager
def fast_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=FAST, prefix="mlpcli-test-") as folder:
        yield Path(folder)


@dataclass
class Ended:
    """The outcome of a command. ``status`` is negative for a signal that ended the process."""

    status: int
    stdout: str
    stderr: str


class ForkServer:
    """A process that forks one child per command, run in ``folder``."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(folder)],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self._process.communicate()

    def run(self, *arguments: Any, k: int = 0, after: float = 0.0, number: int = 0, twice: bool = False) -> Ended:
        """Run ``mlpcli ARGUMENTS``; send signal ``number`` half-way into the k-th file operation, or ``after`` s.

        ``twice``: send it again at the next file operation, which is part of the cleanup.
        """
        job = {"arguments": [str(argument) for argument in arguments], "k": k, "after": after, "number": number}
        job["twice"] = twice
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


def _serve(folder: str) -> None:
    from mlpcli import experiment, files
    from mlpcli.commands import main
    from tests.test_files import FaultyOs, half_done

    del experiment  # imported for the forks
    os.chdir(folder)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the start of a command is not tested
    for line in sys.stdin:
        job = json.loads(line)
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            child = os.fork()
            if child == 0:

                def fault(name: str, arguments: tuple[Any, ...], job: dict[str, Any] = job) -> Any:
                    if job["number"] == signal.SIGKILL:
                        half_done(name, arguments)
                    files.os.k += job["twice"]  # type: ignore[attr-defined]
                    os.kill(os.getpid(), job["number"])
                    return getattr(os, name)(*arguments)

                os.dup2(stdout.fileno(), 1)
                os.dup2(stderr.fileno(), 2)
                files.os = FaultyOs(job["k"], fault)  # type: ignore[assignment]
                status = 70
                try:
                    main(job["arguments"])
                except SystemExit as end:
                    status = end.code if isinstance(end.code, int) else 0
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(status)
            if job["after"]:
                time.sleep(job["after"])
                os.kill(child, job["number"])
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            streams = {}
            for name, file in (("stdout", stdout), ("stderr", stderr)):
                file.seek(0)
                streams[name] = file.read().decode()
        print(json.dumps({"status": status, **streams}), flush=True)  # noqa: T201 - to the process that asked


if __name__ == "__main__":
    _serve(sys.argv[1])
