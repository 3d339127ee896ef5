"""A resumed run is bit-identical to an uninterrupted one; resuming that cannot be is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlpcli import config as config_module
from mlpcli import experiment
from mlpcli.config import Config
from mlpcli.errors import DataError, MlpcliError, RunError, UsageError
from mlpcli.experiment import Observer
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from tests.fork_server import fast_folder
from tests.run_outcome import metrics, outcome

Make = Callable[..., Config]


@pytest.fixture
def folder() -> Iterator[Path]:
    with fast_folder() as path:
        yield path


class Stop(Observer):
    """An observer that stops the run as Ctrl-C does: when an epoch is saved, or within one."""

    def __init__(self, epoch: int, *, step: int = 0) -> None:
        self.messages: list[str] = []
        self._epoch, self._step, self._done, self._steps = epoch, step, 0, 0

    def say(self, message: str) -> None:
        self.messages.append(message)

    def begin(self, run: Path, trainer: Any, dataset: Any) -> None:
        self._done = trainer.state.epoch

    def step(self, loss: float) -> None:
        self._steps += 1
        if self._done == self._epoch and self._steps == self._step:
            raise KeyboardInterrupt

    def epoch(self, record: Any, best: bool) -> None:
        self._done, self._steps = record.epoch, 0
        if self._done == self._epoch and not self._step:
            raise KeyboardInterrupt


def begin(config: Config, run: Path, stop: Stop | None = None) -> Path:
    """Train a run of ``config`` until ``stop`` interrupts it."""
    if stop is None:
        experiment.train(config, out=run)
    else:
        with pytest.raises(KeyboardInterrupt):
            experiment.train(config, out=run, observer=stop)
    return run


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def flip(path: Path, position: int = 1000) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


RUNS = {
    "sgd": ["training.optimizer=sgd"],
    "momentum": ["training.optimizer=momentum", "network.dtype=float64"],
    "nesterov": ["training.optimizer=nesterov", "training.l2=1e-3"],
    "adam": ["training.optimizer=adam", "training.learning_rate=0.01"],
    "cosine with warm-up": ["training.schedule=cosine", "training.warmup_epochs=1.5"],
    "step": ["training.schedule=step", "network.activation=relu"],
    "no validation": ["data.validation=0"],
    "patience": ["training.patience=3", "training.learning_rate=2", "training.epochs=30"],
    "no hidden layer": ["network.hidden=[]", "data.test=false"],
    "distortions, weaker at the end": [
        "augmentation.rotation=20",
        "augmentation.elastic_alpha=20",
        "augmentation.final_epochs=2",
    ],
    "dropout": ["training.dropout=0.5", "training.input_dropout=0.2", "training.label_smoothing=0.1"],
    "averaging": ["training.averaging=0.9", "training.patience=4"],
    "two hidden layers": [
        "network.hidden=[5, 4]",
        "network.activation=tanh",
        "network.objective=sigmoid_cross_entropy",
    ],
}


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_resume_is_bit_identical(tiny_config: Make, folder: Path, overrides: list[str]):
    config = tiny_config("training.epochs=5", *overrides)
    whole = outcome(begin(config, folder / "whole"))
    epochs = len(whole["metrics.jsonl"])
    assert epochs == 5 or ("training.patience=3" in overrides and 4 <= epochs < 30)
    stops = [Stop(0, step=2), *(Stop(epoch) for epoch in range(1, epochs)), Stop(2, step=1), Stop(3, step=3)]
    for number, stop in enumerate(stops):
        run = begin(config, folder / str(number), stop)
        assert directory.read_manifest(run)["state"] == "running"
        experiment.resume(run)
        assert outcome(run) == whole


def test_resume_after_interruption_in_every_epoch(tiny_config: Make, folder: Path):
    config = tiny_config("training.epochs=5")
    whole = outcome(begin(config, folder / "whole"))
    run = begin(config, folder / "run", Stop(0, step=1))
    for epoch in range(1, 5):
        with pytest.raises(KeyboardInterrupt):
            experiment.resume(run, observer=Stop(epoch, step=2))
    result = experiment.resume(run)
    assert outcome(run) == whole
    assert [session["epoch"] for session in directory.read_manifest(run)["resumed"]] == [0, 1, 2, 3, 4]
    assert result.path == run and result.epochs == 5 and result.test_examples == 30


# Changes on resumption ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "network.hidden=[7]",
        "network.dtype=float64",
        "training.learning_rate=0.1",
        "training.optimizer=sgd",
        "training.l2=0.1",
        "training.patience=9",
        "data.validation=0.2",
    ],
)
def test_override_that_changes_past_epochs_is_refused(tiny_config: Make, folder: Path, override: str):
    run = begin(tiny_config(), folder / "run", Stop(1))
    before = snapshot(run)
    key = override.partition("=")[0]
    with pytest.raises(UsageError) as refused:
        experiment.resume(run, (override,))
    old = config_module.flatten(tiny_config())[key]
    new = config_module.flatten(tiny_config(override))[key]
    assert f"{run}: {key}: {old} -> {new}: " in str(refused.value)
    assert snapshot(run) == before


def test_data_location_may_change(tiny_config: Make, folder: Path):
    whole = outcome(begin(tiny_config("data.folder=elsewhere", "data.offline=true"), folder / "whole"))
    run = begin(tiny_config(), folder / "run", Stop(1))
    experiment.resume(run, ("data.folder=elsewhere", "data.offline=true"))
    assert outcome(run) == whole


def test_prolonged_run_keeps_earlier_best(tiny_config: Make, folder: Path):
    config = ("training.schedule=constant", "training.learning_rate=5")
    whole = outcome(begin(tiny_config(*config, "training.epochs=6"), folder / "whole"))
    run = begin(tiny_config(*config, "training.epochs=5"), folder / "run")
    assert checkpoints.read(folder / "whole/checkpoints/best.npz").epoch <= 5
    experiment.resume(run, ("training.epochs=6",))
    assert outcome(run) == whole


@pytest.mark.parametrize("stop", [Stop(2), None], ids=["interrupted", "finished"])
def test_more_epochs_at_constant_rate_prolong_a_run(tiny_config: Make, folder: Path, stop: Stop | None):
    constant = "training.schedule=constant"
    whole = outcome(begin(tiny_config(constant, "training.epochs=6"), folder / "whole"))
    run = begin(tiny_config(constant, "training.epochs=3"), folder / "run", stop)
    # Stopped before another epoch ends, it still has the new number of epochs.
    with pytest.raises(KeyboardInterrupt):
        experiment.resume(run, ("training.epochs=6",), observer=Stop(2 if stop else 3, step=1))
    assert not (run / "test.json").exists()
    experiment.resume(run)
    assert outcome(run) == whole


def test_fewer_epochs_at_constant_rate_shorten_a_run(tiny_config: Make, folder: Path):
    constant = "training.schedule=constant"
    whole = outcome(begin(tiny_config(constant, "training.epochs=3"), folder / "whole"))
    run = begin(tiny_config(constant, "training.epochs=6"), folder / "run", Stop(2))
    with pytest.raises(UsageError, match=r"training\.epochs: 6 -> 1: 2 epochs are done already"):
        experiment.resume(run, ("training.epochs=1",))
    experiment.resume(run, ("training.epochs=3",))
    assert outcome(run) == whole


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_other_epochs_are_refused_if_rates_depend_on_them(tiny_config: Make, folder: Path, schedule: str):
    run = begin(tiny_config(f"training.schedule={schedule}"), folder / "run", Stop(1))
    with pytest.raises(UsageError, match=rf"training\.epochs: 3 -> 6: .* training.schedule: {schedule}") as refused:
        experiment.resume(run, ("training.epochs=6",))
    assert "only with constant" in str(refused.value)


def test_any_key_may_change_before_the_first_epoch(tiny_config: Make, folder: Path):
    whole = outcome(begin(tiny_config("training.epochs=4"), folder / "whole"))
    run = begin(tiny_config(), folder / "run", Stop(0, step=1))
    experiment.resume(run, ("training.epochs=4",))
    assert outcome(run) == whole


def test_config_edited_in_the_run_is_refused(tiny_config: Make, folder: Path):
    run = begin(tiny_config("training.l2=0.25"), folder / "run", Stop(1))
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("l2: 0.25", "l2: 0.5"))
    with pytest.raises(UsageError, match=r"training\.l2: 0\.25 -> 0\.5: a run goes on"):
        experiment.resume(run)


# Finished runs ------------------------------------------------------------------------------------


def test_resume_of_finished_run_needs_no_data(tiny_config: Make, tiny_folder: Path, folder: Path):
    run = folder / "run"
    result = experiment.train(tiny_config(), out=run)
    shutil.rmtree(tiny_folder)
    before = snapshot(run)
    observer = Stop(0)
    assert experiment.resume(run, observer=observer) == result
    assert observer.messages == [f"{run}: is finished; there is nothing to resume"]
    assert snapshot(run) == before


def test_resume_evaluates_test_set_if_stopped_before(tiny_config: Make, folder: Path):
    whole = outcome(begin(tiny_config(), folder / "whole"))
    run = begin(tiny_config(), folder / "run", Stop(3))
    assert not (run / "test.json").exists()
    experiment.resume(run)
    assert outcome(run) == whole


def test_finished_run_is_tested_if_data_test_becomes_true(tiny_config: Make, tiny_folder: Path, folder: Path):
    whole = begin(tiny_config(), folder / "whole")
    run = begin(tiny_config("data.test=false"), folder / "run")
    before = snapshot(run)
    result = experiment.resume(run, ["data.test=true"])
    assert (run / "test.json").read_bytes() == (whole / "test.json").read_bytes()
    assert result.test_error == experiment.resume(whole).test_error
    after = snapshot(run)
    assert after.keys() - before.keys() == {"test.json"}
    assert {name for name in before if after[name] != before[name]} == {"manifest.json"}
    there, here = (directory.read_manifest(path) for path in (whole, run))
    assert (here["state"], here["data"], here["resumed"]) == ("finished", there["data"], [])
    # Once is enough, and then no data are needed.
    shutil.rmtree(tiny_folder)
    assert experiment.resume(run, ["data.test=true"]) == result
    assert snapshot(run) == after


def test_finished_run_is_tested_where_its_data_have_test_images(tiny_config: Make, tiny_folder: Path, folder: Path):
    whole = begin(tiny_config(), folder / "whole")
    with_test = shutil.copytree(tiny_folder, folder / "with-test")
    for file in tiny_folder.glob("t10k-*"):
        file.unlink()
    run = begin(tiny_config(), folder / "run")
    assert experiment.resume(run).test_error is None
    result = experiment.resume(run, [f"data.dataset={with_test}"])
    assert result.test_error == experiment.resume(whole).test_error


# Damage -------------------------------------------------------------------------------------------


def test_damaged_last_is_refused_with_command_for_previous(tiny_config: Make, folder: Path):
    whole = outcome(begin(tiny_config(), folder / "whole"))
    run = begin(tiny_config(), folder / "a run", Stop(2))
    flip(run / "checkpoints/last.npz")
    before = snapshot(run)
    with pytest.raises(RunError) as refused:
        experiment.resume(run)
    command = f"mlpcli train --resume '{run}/checkpoints/previous.npz'"
    assert str(refused.value).startswith(f"{run}/checkpoints/last.npz: is damaged")
    assert str(refused.value).endswith(f"; go on from the one before it: {command}")
    assert snapshot(run) == before
    experiment.resume(run / "checkpoints/previous.npz")
    assert outcome(run) == whole


def test_missing_last_is_not_replaced_silently(tiny_config: Make, folder: Path):
    run = begin(tiny_config(), folder / "run", Stop(2))
    (run / "checkpoints/last.npz").unlink()
    with pytest.raises(RunError, match=r"last\.npz: cannot be read: No such file.*--resume .*previous\.npz"):
        experiment.resume(run)


def test_damaged_last_does_not_replace_previous(tiny_config: Make, folder: Path):
    run = begin(tiny_config("training.epochs=5"), folder / "run", Stop(3))
    flip(run / "checkpoints/last.npz")
    for epoch in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            experiment.resume(run / "checkpoints/previous.npz", observer=Stop(epoch, step=1 if epoch == 2 else 0))
        for name in ("last", "previous"):
            assert checkpoints.read(run / f"checkpoints/{name}.npz").epoch in (2, 3)


def test_last_damaged_during_a_run_does_not_replace_previous(tiny_config: Make, folder: Path):
    run = folder / "run"

    class Damage(Stop):
        def epoch(self, record: Any, best: bool) -> None:
            if record.epoch == 2:
                flip(run / "checkpoints/last.npz")
            super().epoch(record, best)

    begin(tiny_config("training.epochs=5"), run, Damage(3))
    assert checkpoints.read(run / "checkpoints/previous.npz").epoch == 2


def test_resume_from_previous_may_be_interrupted(tiny_config: Make, folder: Path):
    config = tiny_config("training.epochs=5")
    whole = outcome(begin(config, folder / "whole"))
    run = begin(config, folder / "run")
    with pytest.raises(KeyboardInterrupt):
        experiment.resume(run / "checkpoints/previous.npz", observer=Stop(4, step=2))
    assert not (run / "test.json").exists()
    assert [line["epoch"] for line in metrics(run)] == [1, 2, 3, 4]
    experiment.resume(run)
    assert outcome(run) == whole


def test_previous_is_found_from_within_its_folder(tiny_config: Make, folder: Path, monkeypatch: pytest.MonkeyPatch):
    run = begin(tiny_config(), folder / "run", Stop(2))
    monkeypatch.chdir(run / "checkpoints")
    experiment.resume(Path("previous.npz"))
    assert directory.read_manifest(run)["state"] == "finished"


@pytest.mark.parametrize("how", ["damaged", "missing", "too old", "of epochs that never come"])
def test_resume_without_usable_best_is_refused_untouched(tiny_config: Make, folder: Path, how: str):
    run = begin(tiny_config("training.epochs=6", "training.learning_rate=0.01"), folder / "run", Stop(5))
    best, state = run / "checkpoints/best.npz", checkpoints.read(run / "checkpoints/last.npz").state
    assert state.best_epoch >= 2
    if how == "damaged":
        flip(best)
    elif how == "missing":
        best.unlink()
    elif how == "too old":
        begin(tiny_config("training.learning_rate=0.01"), folder / "other", Stop(1))
        shutil.copy(folder / "other/checkpoints/best.npz", best)
    else:
        begin(tiny_config("training.epochs=9", "training.learning_rate=0.01"), folder / "other")
        shutil.copy(folder / "other/checkpoints/last.npz", best)
    before = snapshot(run)
    with pytest.raises(RunError, match=r"best\.npz: .*; train it again: mlpcli train .*config\.yaml"):
        experiment.resume(run)
    changed = {name for name, what in snapshot(run).items() if what[1] != before[name][1]}
    assert changed == set()


def test_leftovers_of_a_killed_process_are_removed(tiny_config: Make, folder: Path):
    whole = outcome(begin(tiny_config("data.validation=0"), folder / "whole"))
    run = begin(tiny_config("data.validation=0"), folder / "run", Stop(2))
    for name in (".mlpcli-0123456789abcdef.partial", "checkpoints/.mlpcli-fedcba9876543210.partial"):
        (run / name).write_bytes(b"half")
    experiment.resume(run)
    assert outcome(run) == whole


def test_resume_truncates_metrics_to_the_checkpoint(tiny_config: Make, folder: Path):
    whole = outcome(begin(tiny_config(), folder / "whole"))
    line = (folder / "whole/metrics.jsonl").read_text().splitlines()[2]
    for extra in ("", "{", line[:50], line + "\n", line + "\n" + line[:20]):
        shutil.rmtree(folder / "run", ignore_errors=True)
        run = begin(tiny_config(), folder / "run", Stop(2))
        with (run / "metrics.jsonl").open("a") as file:
            file.write(extra)
        experiment.resume(run)
        assert outcome(run) == whole


@pytest.mark.parametrize("how", ["missing", "first line missing", "last line torn", "foreign", "swapped", "a field"])
def test_damaged_metrics_are_refused(tiny_config: Make, folder: Path, how: str):
    run = begin(tiny_config(), folder / "run", Stop(2))
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    damaged = {
        "missing": [],
        "first line missing": lines[1:],
        "last line torn": [lines[0], lines[1].rstrip()],
        "foreign": [lines[0], "epoch 2\n"],
        "swapped": lines[::-1],
        "a field": [lines[0], lines[1].replace('"train_loss": ', '"train_loss": "a"+')],
    }
    path.write_text("".join(damaged[how]))
    before = snapshot(run)
    with pytest.raises(RunError, match=r"metrics\.jsonl.*: is damaged: .*; train it again: mlpcli train"):
        experiment.resume(run)
    assert {name: what[1] for name, what in snapshot(run).items()} == {name: what[1] for name, what in before.items()}


def test_checkpoint_of_other_steps_is_refused(tiny_config: Make, folder: Path):
    run = begin(tiny_config(), folder / "run", Stop(2))
    last = run / "checkpoints/last.npz"
    checkpoint = checkpoints.read(last)
    checkpoint.state.step += 1
    checkpoints.write(last, checkpoint)
    with pytest.raises(RunError, match=r"step \d+ is not the end of epoch 2, at 4 mini-batches an epoch"):
        experiment.resume(run)


def test_other_data_are_refused(tiny_config: Make, tiny_folder: Path, folder: Path):
    run = begin(tiny_config(), folder / "run", Stop(1))
    flip(tiny_folder / "train-labels-idx1-ubyte", -1)
    with pytest.raises(DataError, match="train-labels-idx1-ubyte is not the file the run was trained on"):
        experiment.resume(run)


def test_other_data_are_refused_before_the_first_epoch(tiny_config: Make, tiny_folder: Path, folder: Path):
    run = begin(tiny_config(), folder / "run", Stop(0, step=1))
    flip(tiny_folder / "train-labels-idx1-ubyte", -1)
    with pytest.raises(DataError, match="train-labels-idx1-ubyte is not the file the run was trained on"):
        experiment.resume(run)


def test_other_environment_is_reported(tiny_config: Make, folder: Path):
    run = begin(tiny_config(), folder / "run", Stop(1))
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["environment"]["numpy"] = "1.0"
    path.write_text(json.dumps(manifest))
    observer = Stop(0)
    experiment.resume(run, observer=observer)
    assert observer.messages == ["not the environment the run began in (numpy): the numbers may differ"]


@pytest.mark.parametrize("name", ["", "nothing", "file", "run/checkpoints/none.npz", "x" * 5000, "a\0b"])
def test_path_without_a_run_is_refused(tiny_config: Make, folder: Path, name: str):
    begin(tiny_config(), folder / "run", Stop(1))
    (folder / "file").touch()
    with pytest.raises(RunError):
        experiment.resume(folder / name)


# Output folder ---------------------------------------------------------------------------------


def test_taken_directory_is_refused_before_loading_data(tiny_config: Make, folder: Path):
    run = begin(tiny_config(), folder / "run", Stop(1))
    before = snapshot(run)
    nowhere = tiny_config("data.dataset=nowhere")
    with pytest.raises(RunError, match=f"{run}: is a run already; .*mlpcli train --resume {run}"):
        experiment.train(nowhere, out=run)
    assert snapshot(run) == before
    (folder / "full").mkdir()
    (folder / "full/letter").touch()
    with pytest.raises(RunError, match="full: exists and is not empty; name another --out"):
        experiment.train(nowhere, out=folder / "full")
    with pytest.raises(RunError, match="letter: cannot be written: Not a directory"):
        experiment.train(nowhere, out=folder / "full/letter")


def test_unavailable_data_leave_no_directory(tiny_config: Make, folder: Path):
    with pytest.raises(MlpcliError, match="nowhere"):
        experiment.train(tiny_config("data.dataset=nowhere"), out=folder / "new")
    assert list(folder.iterdir()) == []
