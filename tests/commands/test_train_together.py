"""Processes that train together move the parameters where one process does: every optimizer, without a penalty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import together
from tests.commands.test_train_mpi import command, with_mpi
from tests.together import SMALL

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam")


def trained(out: str, command_line: list[str], tiny: Path, optimizer: str) -> dict[str, np.ndarray]:
    """The arrays of the last checkpoint, of a training by ``command_line``."""
    keys = (
        f'data.dataset="{tiny}"',
        "network.dtype=float64",
        f"training.optimizer={optimizer}",
        "training.learning_rate=0.01",
        "training.l2=0",
    )
    settings = [part for key in keys for part in ("--set", key)]
    status, _, err = together.ended([*command_line, "--quiet", "--out", out, *SMALL, *settings])
    assert (status, err) == (0, "")
    with np.load(Path(out, "checkpoints", "last.npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if arrays[name].dtype.kind == "f"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_as_one_process(command_line: list[str], tiny: Path, optimizer: str) -> None:
    one = trained("one", command(0, mpi=False), tiny, optimizer)
    several = trained("several", command_line, tiny, optimizer)
    assert several.keys() == one.keys()
    for name, array in one.items():
        np.testing.assert_allclose(several[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


@with_mpi
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_processes_of_mpi_train_as_one(tiny_folder: Path, optimizer: str) -> None:
    assert_as_one_process(command(2), tiny_folder, optimizer)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_forked_processes_train_as_one(tiny_folder: Path, optimizer: str) -> None:
    assert_as_one_process([*command(0, mpi=False), "--processes", "2"], tiny_folder, optimizer)
