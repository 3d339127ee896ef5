"""What being watched costs training: the same run with nobody watching, and with a server and open pages, in turns.

    python -m benchmarks.watching --repeats 3 --pages 4

A page is a reader that takes what it is sent, as a browser does, and draws nothing. Printed are the examples per second
of each run, in all of its epochs together and the median of those in its second half, when the server has long begun;
the ratios of both; and the CPU time that the server took.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


def main() -> None:
    """Measure, and print a line a pair of runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("train", nargs="*", metavar="-- OPTION", help="more options of mlpcli train")
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.repeats):
            order = (0, arguments.pages) if number % 2 == 0 else (arguments.pages, 0)
            found = {
                pages: _train(Path(folder, f"{number}-{pages}"), arguments.epochs, pages, arguments.train)
                for pages in order
            }
            alone, watched = found[0], found[arguments.pages]
            ratios.append((watched.all / alone.all, watched.later / alone.later))
            print(
                f"alone {alone.all:,.0f}, later {alone.later:,.0f}; watched {watched.all:,.0f}, later "
                f"{watched.later:,.0f} images/s; ratios {ratios[-1][0]:.4f}, {ratios[-1][1]:.4f}; "
                f"server {watched.server:.2f} s of CPU in {watched.seconds:.1f} s",
                flush=True,
            )
    for name, values in zip(("all", "later"), zip(*ratios, strict=True), strict=True):
        print(f"{name:<5} {statistics.median(values):.4f} ({min(values):.4f}-{max(values):.4f})")


@dataclass
class Speed:
    """Examples per second of all epochs and, the median, of the second half; CPU seconds of the server, of how many."""

    all: float
    later: float
    server: float
    seconds: float


def _train(run: Path, epochs: int, pages: int, more: list[str]) -> Speed:
    began = time.monotonic()
    command = [sys.executable, "-m", "mlpcli", "train", "--quiet", "--out", str(run)]
    command += ["--set", f"training.epochs={epochs}", "--set", "data.test=false", *more]
    trainer = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    server = None
    if pages:
        while not (run / "config.yaml").exists():
            time.sleep(0.02)
        options = ["watch", str(run), "--no-open"]
        server = subprocess.Popen([sys.executable, "-m", "mlpcli", *options], stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        address = server.stderr.readline().split()[1]
        for _ in range(pages):
            threading.Thread(target=_read, args=(address,), daemon=True).start()
    if trainer.wait():
        raise SystemExit("the run failed")
    used, seconds = 0.0, time.monotonic() - began
    if server is not None:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        server.terminate()
        server.wait()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [record["examples_per_second"] for record in records]
    total = sum(record["seconds"] for record in records)
    examples = sum(record["examples_per_second"] * record["seconds"] for record in records)
    return Speed(examples / total, statistics.median(speeds[len(speeds) // 2 :]), used, seconds)


def _read(address: str) -> None:
    host, path = address.removeprefix("http://").split("/", 1)
    name, port = host.split(":")
    with suppress(OSError), socket.create_connection((name, int(port))) as connection:
        connection.sendall(f"GET /{path}events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        while connection.recv(1 << 20):
            pass


if __name__ == "__main__":
    main()
