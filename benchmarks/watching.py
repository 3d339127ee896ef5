"""The cost of being watched: one run, whose server and open pages are stopped and continued in turns.

    python -m benchmarks.watching -- --source data/mirror

A page is a reader that takes what it is sent, as a browser does, and draws nothing. Within one run the machine's moods
weigh least: each round is a window in which the server is stopped (SIGSTOP), and one in which it goes on, and catches
up with what it had no time for. Printed are the ratios of the steps that were taken in the two, and the share of the
processors' time that the server took. Counting begins when it has looked at the images once; what it took until then
is printed too.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from mlpcli.runs import directory


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a window")
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("train", nargs="*", metavar="-- OPTION", help="more options of mlpcli train")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        options = ["--quiet", "--out", str(run), "--set", "training.epochs=10000", *arguments.train]
        trainer = subprocess.Popen([sys.executable, "-m", "mlpcli", "train", *options])
        server = None
        try:
            while not (run / "checkpoints" / "last.npz").exists():
                if trainer.poll() is not None:
                    raise SystemExit("the run failed")
                time.sleep(0.1)
            server, began = _serve(run, arguments.pages)
            print(f"to begin the server took {began:.2f} s of CPU")
            _measure(run, server.pid, arguments.rounds, arguments.seconds)
        finally:
            for process in (trainer, server):
                if process is not None:
                    process.kill()
                    process.wait()


def _serve(run: Path, pages: int) -> tuple[subprocess.Popen[str], float]:
    """Start the server and the pages, and wait until it has looked at the images; its CPU seconds."""
    command = [sys.executable, "-m", "mlpcli", "watch", str(run), "--no-open"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = server.stderr.readline().split()[1]
    seen = threading.Event()
    for _ in range(pages):
        threading.Thread(target=_read, args=(address, seen), daemon=True).start()
    seen.wait(60)
    time.sleep(2)
    return server, _cpu(server.pid)


def _measure(run: Path, server: int, rounds: int, seconds: float) -> None:
    bounds, offsets = [time.monotonic()], []
    cpu = _cpu(server)
    for window in range(2 * rounds):
        # Stopped, going on; going on, stopped; so that what drifts weighs on both alike.
        os.kill(server, signal.SIGSTOP if window % 4 in (0, 3) else signal.SIGCONT)
        until = bounds[-1] + seconds
        while (now := time.monotonic()) < until:
            steps = directory.read_steps(run)
            if steps is not None:
                offsets.append(now - steps.lines[-1][1])
            time.sleep(max(0.0, min(0.5, until - now)))
        bounds.append(until)
    os.kill(server, signal.SIGCONT)
    used, elapsed = _cpu(server) - cpu, 2 * rounds * seconds
    time.sleep(1)
    steps = directory.read_steps(run)
    assert steps is not None
    lines = np.array(steps.lines)
    taken = np.diff(np.interp(np.array(bounds) - min(offsets), lines[:, 1], lines[:, 0]))
    pairs = [taken[n : n + 2] if n % 4 == 0 else taken[n : n + 2][::-1] for n in range(0, 2 * rounds, 2)]
    ratios = [watched / alone for alone, watched in pairs]
    alone, watched = (sum(pair[n] for pair in pairs) for n in (0, 1))
    each = " ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"steps watched / alone: {watched / alone:.4f} of all, median {statistics.median(ratios):.4f} ({each})")
    cores = len(os.sched_getaffinity(0))
    print(f"the server took {used:.2f} s of CPU in {elapsed:.0f} s of {cores} processors: {used / elapsed / cores:.2%}")


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read(address: str, seen: threading.Event) -> None:
    host, path = address.removeprefix("http://").split("/", 1)
    name, port = host.split(":")
    with suppress(OSError), socket.create_connection((name, int(port))) as connection:
        connection.sendall(f"GET /{path}events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        while chunk := connection.recv(1 << 20):
            if b"event: contents" in chunk:
                seen.set()


if __name__ == "__main__":
    main()
