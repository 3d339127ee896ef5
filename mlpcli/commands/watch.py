"""``mlpcli watch``: a live page of a run or a folder of runs, also as a child process of training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlpcli.commands import Terminated, output
from mlpcli.commands.options import no_open_option, port_option, set_threads
from mlpcli.errors import RunError, UsageError, shown

if TYPE_CHECKING:
    import asyncio

# Time for the child to send its pages the last events.
PATIENCE_SECONDS = 12.0


@click.command()
@click.argument("name", metavar="[RUN|FOLDER]", default="runs")
@port_option
@no_open_option
@click.option("--until-closed", is_flag=True, hidden=True, help="End when standard input does; allow an empty folder.")
def command(name: str, port: int | None, no_open: bool, until_closed: bool) -> None:
    """Show a run in the browser while it trains: curves, weights, mistakes, and a board to draw on.

    RUN may be finished, or still training in another terminal. For a FOLDER, such as a sweep's, the page shows all runs
    side by side, with a link to the page of each run. The default is the folder runs/. The page is served on 127.0.0.1,
    so it can be opened only on this machine, at the printed address. To stop, press Ctrl-C.

    \b
    Examples:
      mlpcli watch                          all runs in runs/
      mlpcli watch runs/mnist-...           one run
      mlpcli watch runs/rates --no-open     a sweep; the address is printed, and no browser is opened
    """
    set_threads(1)
    path = Path(name)
    is_run = _is_run(path, until_closed)

    import asyncio

    stopped: list[int] = []
    asyncio.run(_serve(path, is_run, port or 0, no_open, until_closed, stopped))
    if stopped:
        raise KeyboardInterrupt if stopped[0] == signal.SIGINT else Terminated(stopped[0])


def _is_run(path: Path, may_be_empty: bool) -> bool:
    """Return True for a run, False for a folder of runs. Raises ``RunError`` if it is neither, or a damaged run."""
    from mlpcli.runs import directory
    from mlpcli.runs.summary import read_run

    if directory.is_run(path):
        if not may_be_empty:
            read_run(path)
        return True
    if not directory.is_folder(path):
        what = "is a checkpoint; name its run" if path.suffix == ".npz" else "no such run or folder of runs"
        raise RunError(f"{shown(path)}: {what}")
    with suppress(OSError):
        if may_be_empty or any(directory.is_run(each) for each in path.iterdir()):
            return False
    raise RunError(f"{shown(path)}: is not a run, and contains none; train one: mlpcli train --watch")


async def _serve(path: Path, is_run: bool, port: int, no_open: bool, until_closed: bool, stopped: list[int]) -> None:
    import asyncio

    from mlpcli.parallel.control import available_cores
    from mlpcli.watch.server import Server

    def stop(number: int) -> None:
        stopped.append(number)
        until.set()

    def opened(address: str) -> None:
        output.say(f"watch    {address}")
        if not no_open and sys.stderr.isatty() and _has_screen():
            threading.Thread(target=_open, args=(address,), daemon=True).start()

    until = asyncio.Event()
    loop = asyncio.get_running_loop()
    handled = [
        each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN
    ]
    for number in handled:
        loop.add_signal_handler(number, stop, number)
    if until_closed:
        loop.add_reader(sys.stdin.fileno(), _read_to_the_end, loop, until)
    cores = len(available_cores())
    server = Server(path, is_run, cores, port=port, say=output.say, opened=opened)
    try:
        await server.serve(until, trainer_ends=until_closed)
    finally:
        # The loop closes the pipe that signals are written to before it removes their handlers.
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # a second one ends it at once


def _read_to_the_end(loop: asyncio.AbstractEventLoop, until: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        loop.remove_reader(sys.stdin.fileno())
        until.set()


def _has_screen() -> bool:
    """Return True if a browser can open a window; a text browser would take the terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _open(address: str) -> None:
    import webbrowser

    with suppress(webbrowser.Error, OSError):
        webbrowser.open(address)


class LivePage:
    """A live page of this process's training, or none: this class does nothing."""

    def open(self, path: Path) -> None:
        """Serve the run or the folder ``path``."""

    def close(self) -> None:
        """Send the pages the last events, and end the child."""


class _ChildPage(LivePage):
    """A page served by a child process; training continues if the child is killed."""

    def __init__(self, port: int | None, no_open: bool) -> None:
        self._options = [*(("--port", str(port)) if port else ()), *(("--no-open",) if no_open else ())]
        self._child: subprocess.Popen[bytes] | None = None

    def open(self, path: Path) -> None:
        """Serve the run or the folder ``path``."""
        # A name that begins with a dash would be taken for an option.
        arguments = ("watch", "--until-closed", *self._options, "--", str(path))
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "mlpcli", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the training process
            )
        except OSError as error:
            output.say(f"mlpcli: no page can be served: {error.strerror or error}")

    def close(self) -> None:
        """Send the pages the last events, and end the child."""
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(OSError):
            assert child.stdin is not None
            child.stdin.close()
        try:
            child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def live_page(watch: bool, port: int | None, no_open: bool) -> LivePage:
    """Return the page for ``--watch``, or one that does nothing. Raises ``UsageError`` for options without it."""
    if not watch and (port is not None or no_open):
        raise UsageError(f"{'--port' if port is not None else '--no-open'} has a use only with --watch")
    return _ChildPage(port, no_open) if watch else LivePage()
