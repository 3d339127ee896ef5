"""``mlpcli runs``: what it prints, and its exit statuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlpcli import commands, experiment
from mlpcli.config import Config
from mlpcli.experiment import Observer
from mlpcli.runs import checkpoint as checkpoints
from tests.nursery import fast_folder

Make = Callable[..., Config]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with fast_folder() as path:
        monkeypatch.chdir(path)
        yield path


@pytest.fixture
def mlpcli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command: its exit status, stdout, stderr."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        capfd.readouterr()
        status = commands._run([str(argument) for argument in arguments])
        return (status, *capfd.readouterr())

    return run


class Stop(Observer):
    """Stops the run when epoch 2 is saved."""

    def epoch(self, record: Any, best: bool) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt


def interrupt(config: Config, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        experiment.train(config, out=out, observer=Stop())


def change_metrics(run: Path, epoch: int, **values: Any) -> None:
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[epoch - 1].update(values)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


# list and show -------------------------------------------------------------------------------------------------------


def test_list(tiny_config: Make, folder: Path, mlpcli: Any):
    assert mlpcli("runs", "list") == (0, "", "no runs in runs\n")
    assert mlpcli("runs", "list", "--json") == (0, "[]\n", "")
    assert mlpcli("runs", "list", "elsewhere") == (
        4,
        "",
        "mlpcli: elsewhere: cannot be read: No such file or directory\n",
    )
    run = experiment.train(tiny_config(), out=Path("runs/done"))
    interrupt(tiny_config("data.validation=0"), Path("runs/part"))
    for name, started in (("done", "2020"), ("part", "2021")):
        path = Path(f"runs/{name}/manifest.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "started": started}))
    Path("runs/bad").mkdir()
    Path("runs/bad/config.yaml").write_text("seed: -1")
    status, out, err = mlpcli("runs", "list")
    assert run.validation_error is not None
    assert (status, [line.split() for line in out.splitlines()]) == (
        0,
        [
            ["run", "state", "epochs", "validation", "data"],
            ["runs/part", "interrupted", "2/3", "tiny"],
            ["runs/done", "finished", "3/3", f"{run.validation_error:.2%}", "tiny"],
            ["runs/bad", "damaged"],
        ],
    )
    assert err.startswith("mlpcli: runs/bad/config.yaml:1: seed: -1 is not allowed")
    status, out, err = mlpcli("runs", "list", "runs", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert [(each["path"], each["state"]) for each in found] == [
        ("runs/part", "interrupted"),
        ("runs/done", "finished"),
        ("runs/bad", "damaged"),
    ]
    assert found[1]["test_error"] == run.test_error and found[2]["problem"].startswith("runs/bad/config.yaml:1: ")


def test_show(tiny_config: Make, folder: Path, mlpcli: Any):
    run = experiment.train(tiny_config(), out=Path("first"))
    status, out, err = mlpcli("runs", "show", "first")
    assert (status, err) == (0, "")
    assert run.validation_error is not None and run.test_error is not None
    lines = out.splitlines()
    assert lines[:2] == ["run               first", "state             finished, 3 of 3 epochs"]
    assert f"validation error  {run.validation_error:.2%} (epoch {run.best_epoch})" in lines
    assert f"training error    {run.train_error:.2%} (epoch 3)" in lines
    assert f"test error        {run.test_error:.2%}" in lines
    assert "    hidden: [6]" in lines and "environment" in lines and "resumed" not in out
    document = json.loads(mlpcli("runs", "show", "first", "--json")[1])
    assert document["config"]["network"]["hidden"] == [6] and document["manifest"]["state"] == "finished"
    assert (document["state"], document["epochs"], document["test"]["errors"]) == ("finished", 3, run.test_errors)


def test_show_a_run_that_was_resumed_and_one_that_hardly_began(tiny_config: Make, folder: Path, mlpcli: Any):
    interrupt(tiny_config(), Path("resumed"))
    experiment.resume(Path("resumed"))
    assert "resumed           from epoch 2\n" in mlpcli("runs", "show", "resumed")[1]
    Path("new").mkdir()
    shutil.copy("resumed/config.yaml", "new")
    status, out, _ = mlpcli("runs", "show", "new")
    assert status == 0 and "interrupted, 0 of 3 epochs" in out


def test_a_file_does_not_steer_the_terminal(tiny_config: Make, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("runs/x"))
    path = Path("runs/x/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["data"]["dataset"] = manifest["environment"]["blas"] = manifest["started"] = "\x1b]0;mine\x07\ud800"
    path.write_text(json.dumps(manifest))
    for arguments in (("list",), ("show", "runs/x"), ("list", "--json"), ("show", "runs/x", "--json")):
        status, out, _ = mlpcli("runs", *arguments)
        assert status == 0 and "\x1b" not in out


@pytest.mark.parametrize("command", ["show", "reproduce"])
def test_what_is_no_run(tiny_config: Make, folder: Path, mlpcli: Any, command: str):
    interrupt(tiny_config(), Path("part"))
    assert mlpcli("runs", command, "none")[0::2] == (
        4,
        "mlpcli: none: no such run, and no checkpoint inside one; a run is a folder under runs/\n",
    )
    assert "is no run: it has no config.yaml" in mlpcli("runs", command, ".")[2]
    assert "is a checkpoint; name its run: " in mlpcli("runs", command, "part/checkpoints/last.npz")[2]


# reproduce -----------------------------------------------------------------------------------------------------------


def test_a_run_is_reproduced(tiny_config: Make, tiny_folder: Path, folder: Path, mlpcli: Any):
    experiment.train(tiny_config("training.optimizer=adam"), out=Path("first"))
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tiny_folder / name).unlink()  # the test set is not looked at again
    status, out, err = mlpcli("runs", "reproduce", "first")
    assert (status, out) == (0, "first: reproduced, 3 epochs: metrics and parameters are equal bit for bit\n")
    assert "epoch 3/3" in err
    assert mlpcli("runs", "reproduce", "first", "--quiet")[::2] == (0, "")
    document = json.loads(mlpcli("runs", "reproduce", "first", "--json", "--quiet")[1])
    assert document == {
        "run": "first",
        "equal": True,
        "epochs": 3,
        "epochs_wanted": 3,
        "environment": [],
        "differences": [],
    }
    assert [path.name for path in folder.iterdir()] == ["first"]


def test_a_run_that_was_resumed_and_prolonged_is_reproduced_too(tiny_config: Make, folder: Path, mlpcli: Any):
    interrupt(tiny_config("training.schedule=constant"), Path("first"))
    experiment.resume(Path("first"))
    experiment.resume(Path("first"), ("training.epochs=5",))
    assert mlpcli("runs", "reproduce", "first", "--quiet")[1].startswith("first: reproduced, 5 epochs: ")


def test_of_an_unfinished_run_the_epochs_it_has(tiny_config: Make, folder: Path, mlpcli: Any):
    interrupt(tiny_config(), Path("part"))
    status, out, _ = mlpcli("runs", "reproduce", "part", "--quiet", "--keep", "again")
    assert (status, out.split(":")[1]) == (0, " reproduced, the 2 epochs it has")
    assert checkpoints.read(Path("again/checkpoints/last.npz")).epoch == 2
    assert mlpcli("runs", "reproduce", "part", "--keep", "again")[0] == 4
    shutil.rmtree("part/checkpoints")
    assert "last.npz: cannot be read" in mlpcli("runs", "reproduce", "part")[2]


def test_a_metric_that_differs_is_shown_beside_the_environment(tiny_config: Make, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("first"))
    change_metrics(Path("first"), 2, train_loss=0.5, seconds=1.0, examples_per_second=1.0)
    status, out, _ = mlpcli("runs", "reproduce", "first", "--quiet")
    lines = out.splitlines()
    assert status == 1 and lines[0] == "first: not reproduced, 3 epochs"
    assert lines[2].startswith("epoch 2 train_loss  0.5 ")
    assert lines[3:] == ["the environment is the one recorded: versions, processor, BLAS and threads"]
    path = Path("first/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["environment"]["numpy"] = "1.0"
    path.write_text(json.dumps(manifest))
    lines = mlpcli("runs", "reproduce", "first", "--quiet")[1].splitlines()
    assert lines[4].split() == ["environment", "recorded", "here"] and lines[5].split()[:2] == ["numpy", "1.0"]
    document = json.loads(mlpcli("runs", "reproduce", "first", "--quiet", "--json")[1])
    assert document["equal"] is False and document["environment"][0]["key"] == "numpy"
    assert [(each["what"], each["recorded"]) for each in document["differences"]] == [("epoch 2 train_loss", "0.5")]


@pytest.mark.parametrize("name", ["last", "best"])
def test_one_parameter_that_differs_by_one_bit_is_shown(tiny_config: Make, folder: Path, mlpcli: Any, name: str):
    experiment.train(tiny_config("data.validation=0.3"), out=Path("first"))
    path = Path(f"first/checkpoints/{name}.npz")
    checkpoint = checkpoints.read(path)
    checkpoint.parameters.W[0].view("u4")[3, 2] ^= 1
    checkpoint.state.optimizer["v"].view("u4")[5] ^= 1 << 31
    checkpoints.write(path, checkpoint)
    status, out, _ = mlpcli("runs", "reproduce", "first", "--quiet")
    assert status == 1
    assert f"{name}.npz W1: 1 of 120 numbers, furthest apart" in out
    assert f"{name}.npz v: 1 of 147 numbers, furthest apart" in out


def test_many_differences_are_counted_not_shown(tiny_config: Make, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("first"))
    for epoch in (1, 2, 3):
        change_metrics(
            Path("first"),
            epoch,
            **dict.fromkeys(["learning_rate", "train_loss", "train_error", "validation_loss", "validation_error"], 9.0),
            gradient_norm=[1.0],
            saturation=None,
        )
    out = mlpcli("runs", "reproduce", "first", "--quiet")[1]
    assert "and 1 more (--json has them all)" in out


def test_a_missing_best_is_a_difference(tiny_config: Make, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("first"))
    Path("first/checkpoints/best.npz").unlink()
    out = mlpcli("runs", "reproduce", "first", "--quiet")[1]
    assert [line.split() for line in out.splitlines()][2] == ["best.npz", "missing", "there"]


def test_other_data_can_not_reproduce_it(tiny_config: Make, tiny_folder: Path, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("first"))
    path = tiny_folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    status, _, err = mlpcli("runs", "reproduce", "first")
    assert status == 3 and "train-images-idx3-ubyte is not the file the run was trained on" in err
