"""Measure the peak memory of whole runs: a default one, a longer one, and one on ten times the images.

This process reads no images: the system counts a child's peak no lower than its parent's memory at the start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common

TIMES = 10


def main() -> None:
    """Run each case as its own process and read its peak from the system."""
    options = common.parser(__doc__, repeats=3)
    options.add_argument("--epochs", default="1,3", help="epochs of the runs on the unchanged data set")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlpcli-memory-") as scratch:
        samples, size = measure(given, Path(scratch))
    peaks: dict[str, list[float]] = {}
    for sample in samples:
        peaks.setdefault(sample["run"], []).append(sample["peak_bytes"] / 1e6)
    rows = [[run, common.with_range(common.spread(own), 1)] for run, own in peaks.items()]
    (once, many) = (common.spread(peaks[run]).median for run in ("data x 1, 1 epoch", f"data x {TIMES}, 1 epoch"))
    text = (
        common.table(["run", "peak, MB (10^6 bytes)"], rows)
        + f"\n\nThe files of the training images are {size / 1e6:.1f} MB; {TIMES} times the images cost "
        + f"{many - once:.1f} MB more, where their bytes alone are {(TIMES - 1) * size / 1e6:.1f} MB more."
    )
    common.report(given, "memory", {"training_bytes": size, "samples": samples}, text)


def measure(given: Any, scratch: Path) -> tuple[list[dict[str, Any]], int]:
    """Return every sample and the bytes of the training files. The folders x 1 and x 10 differ only in length."""
    source = common.decoded_folder(given.data, scratch / "decoded")
    folders = {1: multiplied(source, 1, scratch / "once"), TIMES: multiplied(source, TIMES, scratch / "often")}
    cases = {f"as shipped, {epochs} epoch(s)": (given.data, int(epochs)) for epochs in given.epochs.split(",")}
    cases |= {f"data x {times}, 1 epoch": (str(folder), 1) for times, folder in folders.items()}
    samples = []
    for number, name in common.rounds(list(cases), given.repeats):
        dataset, epochs = cases[name]
        peak = peak_bytes(dataset, epochs, given.threads, scratch / "run")
        samples.append({"run": name, "round": number, "peak_bytes": peak})
    return samples, sum((folders[1] / name).stat().st_size for name in common.TRAIN_FILES)


def peak_bytes(dataset: str, epochs: int, threads: int, out: Path) -> int:
    """Return the peak resident size of ``mlpcli train`` in bytes."""
    command = [sys.executable, "-m", "mlpcli", "train", "--quiet", "--out", str(out), "--threads", str(threads)]
    command += ["--set", f"data.dataset={dataset}", "--set", f"training.epochs={epochs}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=common.environment())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: ended with status {process.returncode}")
    shutil.rmtree(out)
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def multiplied(source: Path, times: int, folder: Path) -> Path:
    """Write ``times`` copies of the training images, and the test images once, as plain IDX files to ``folder``."""
    folder.mkdir()
    for name in (*common.TRAIN_FILES, *common.TEST_FILES):
        repeats = times if name in common.TRAIN_FILES else 1
        with (source / name).open("rb") as whole, (folder / name).open("wb") as copy:
            header = whole.read(common.header_size(name))
            count = int.from_bytes(header[4:8], "big") * repeats
            copy.write(header[:4] + count.to_bytes(4, "big") + header[8:])
            for _ in range(repeats):
                whole.seek(len(header))
                shutil.copyfileobj(whole, copy)
    return folder


if __name__ == "__main__":
    main()
