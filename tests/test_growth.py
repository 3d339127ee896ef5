"""Time of the commands whose work grows with the epochs of a run, or with the runs of a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlpcli import config as config_module
from mlpcli import experiment
from tests.fork_server import fast_folder

pytestmark = pytest.mark.slow

EPOCHS, RUNS = 100_000, 2000
# Limit of the processor time: this many times that of importing numpy, which takes 0.1 s on an idle AMD EPYC, and more
# on a slower or busier machine.
IMPORTS = 20
ATTEMPTS = 3


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Return a folder with ``long``, a run of ``EPOCHS`` epochs, and ``many``, a folder of ``RUNS`` runs."""
    pytest.importorskip("matplotlib")
    with fast_folder() as folder:
        overrides = ["data.dataset=mnist-sample", "network.hidden=[10]", "training.epochs=2"]
        first = experiment.train(config_module.load(None, overrides, {}), out=folder / "first").path
        shutil.copytree(first, folder / "long")
        grow(folder / "long", EPOCHS, seed=0)
        for seed in range(RUNS):
            shutil.copytree(first, folder / "many" / f"run-{seed}")
            grow(folder / "many" / f"run-{seed}", 10, seed)
        yield folder


def grow(run: Path, epochs: int, seed: int) -> None:
    """Lengthen the run to ``epochs``, with the numbers of its two epochs in turn, and change its seed."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with (run / "metrics.jsonl").open("w") as file:
        for epoch in range(1, epochs + 1):
            file.write(json.dumps({**records[epoch % 2], "epoch": epoch}) + "\n")
    config = (run / "config.yaml").read_text()
    config = config.replace("\n  epochs: 2\n", f"\n  epochs: {epochs}\n").replace("seed: 0\n", f"seed: {seed}\n")
    (run / "config.yaml").write_text(config)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "epochs": epochs}))


def processor_seconds(arguments: list[str], folder: Path) -> float:
    """Return the processor time of ``python ARGUMENTS`` in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "show", "long"],
        ["plot", "long", "-o", "p.png"],
        ["plot", "long", "-o", "p.png", "--kind", "layers"],
        ["report", "long", "-o", "r.html"],
        ["runs", "list", "many"],
        ["runs", "compare", "many"],
        ["report", "many", "-o", "r.html"],
    ],
    ids=" ".join,
)
def test_long_runs_and_large_folders_stay_quick(grown: Path, arguments: list[str]):
    taken = []
    for _ in range(ATTEMPTS):
        seconds = processor_seconds(["-m", "mlpcli", *arguments], grown)
        taken.append(seconds / processor_seconds(["-c", "import numpy"], grown))
        if taken[-1] < IMPORTS:
            return
    pytest.fail(f"took {', '.join(f'{times:.1f}' for times in taken)} times the processor time of importing numpy")
