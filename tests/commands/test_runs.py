"""``mlpcli runs``: output and exit statuses."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlpcli import commands, experiment
from mlpcli.analysis.curve import learning_curve
from mlpcli.config import Config
from mlpcli.errors import DivergedError
from mlpcli.experiment import Observer
from mlpcli.runs import checkpoint as checkpoints
from tests.fork_server import fast_folder

Make = Callable[..., Config]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with fast_folder() as path:
        monkeypatch.chdir(path)
        yield path


@pytest.fixture
def mlpcli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command: exit status, stdout, stderr."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        capfd.readouterr()
        status = commands._run([str(argument) for argument in arguments])
        return (status, *capfd.readouterr())

    return run


class Stop(Observer):
    """An observer that stops the run when epoch 2 is saved."""

    def epoch(self, record: Any, best: bool) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt


def interrupt(config: Config, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        experiment.train(config, out=out, observer=Stop())


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def change_metrics(run: Path, epoch: int, **values: Any) -> None:
    path = run / "metrics.jsonl"
    lines = metrics_of(run)
    lines[epoch - 1].update(values)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


# list and show ------------------------------------------------------------------------------------


def test_list_shows_every_run(tiny_config: Make, folder: Path, mlpcli: Any):
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


def test_list_of_a_run_is_refused(tiny_config: Make, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("runs/a"))
    message = "mlpcli: runs/a: is a run, not a folder of runs; see mlpcli runs show\n"
    assert mlpcli("runs", "list", "runs/a") == (2, "", message)


@pytest.mark.parametrize(("epochs", "patience", "damaged"), [(4, None, True), (2, 1, True), (4, 1, False)])
def test_finished_run_has_the_epochs_of_its_config(
    tiny_config: Make, folder: Path, mlpcli: Any, epochs: int, patience: int | None, damaged: bool
):
    experiment.train(tiny_config(), out=Path("runs/a"))
    config = Path("runs/a/config.yaml")
    changed = config.read_text().replace("epochs: 3\n", f"epochs: {epochs}\n")
    config.write_text(changed.replace("patience: null", f"patience: {json.dumps(patience)}"))
    message = f"training.epochs is {epochs}, but the run finished with 3; write what it was trained with"
    for command in ("show", "compare"):
        _, out, err = mlpcli("runs", command, "runs/a")
        assert (message in out + err) == damaged


def test_show_prints_a_run(tiny_config: Make, folder: Path, mlpcli: Any):
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
    errors = [[line[f"{split}_error"] for line in metrics_of(Path("first"))] for split in ("train", "validation")]
    start = lines.index("") + 1
    assert lines[start : lines.index("config")] == [*learning_curve(*errors), ""]
    document = json.loads(mlpcli("runs", "show", "first", "--json")[1])
    assert document["config"]["network"]["hidden"] == [6] and document["manifest"]["state"] == "finished"
    assert (document["state"], document["epochs"], document["test"]["errors"]) == ("finished", 3, run.test_errors)


def test_show_resumed_and_barely_begun_runs(tiny_config: Make, folder: Path, mlpcli: Any):
    interrupt(tiny_config(), Path("resumed"))
    experiment.resume(Path("resumed"))
    assert "resumed           from epoch 2\n" in mlpcli("runs", "show", "resumed")[1]
    Path("new").mkdir()
    shutil.copy("resumed/config.yaml", "new")
    status, out, _ = mlpcli("runs", "show", "new")
    assert status == 0 and "interrupted, 0 of 3 epochs" in out


def test_control_characters_in_files_are_escaped(tiny_config: Make, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("runs/x"))
    path = Path("runs/x/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["data"]["dataset"] = manifest["environment"]["blas"] = manifest["started"] = "\x1b]0;mine\x07\ud800"
    path.write_text(json.dumps(manifest))
    for arguments in (("list",), ("show", "runs/x"), ("list", "--json"), ("show", "runs/x", "--json")):
        status, out, _ = mlpcli("runs", *arguments)
        assert status == 0 and "\x1b" not in out


def test_control_characters_in_names_are_escaped(tiny_config: Make, folder: Path, mlpcli: Any):
    name = "runs/\x1b]0;mine\x07\udcff"
    experiment.train(tiny_config(), out=Path(name))
    for arguments in (("list",), ("show", name), ("compare", name), ("compare", name, "--group-seeds")):
        for form in ((), ("--json",)):
            status, out, _ = mlpcli("runs", *arguments, *form)
            assert status == 0 and "\x1b" not in out


@pytest.mark.parametrize("command", ["show", "reproduce"])
def test_path_without_a_run_is_refused(tiny_config: Make, folder: Path, mlpcli: Any, command: str):
    interrupt(tiny_config(), Path("part"))
    assert mlpcli("runs", command, "none")[0::2] == (
        4,
        "mlpcli: none: no such run, and no checkpoint in a run; a run is a folder under runs/\n",
    )
    assert "is not a run: it has no config.yaml" in mlpcli("runs", command, ".")[2]
    assert "is a checkpoint; name its run: " in mlpcli("runs", command, "part/checkpoints/last.npz")[2]


def test_curve_shows_the_errors_of_the_run(tiny_config: Make, folder: Path, mlpcli: Any):
    experiment.train(tiny_config("data.validation=0"), out=Path("no-validation"))
    experiment.train(tiny_config("training.epochs=1"), out=Path("one-epoch"))
    out = mlpcli("runs", "show", "no-validation")[1]
    assert " error └" in out and "validation 0" not in out.replace("validation: 0", "")
    assert "└" not in mlpcli("runs", "show", "one-epoch")[1]
    assert "└" not in mlpcli("runs", "show", "no-validation", "--json")[1]


# compare ------------------------------------------------------------------------------------------


@pytest.fixture
def several(tiny_config: Make, folder: Path) -> dict[str, experiment.Run]:
    """Make runs: two seeds of one config, one of another, one without validation images, interrupted and damaged."""
    made = {
        name: experiment.train(tiny_config(*settings), out=Path("runs", name))
        for name, *settings in (
            ("a-0", "seed=0"),
            ("a-1", "seed=1"),
            ("b", "network.hidden=[]", "training.l2=0.1"),
        )
    }
    interrupt(tiny_config("data.validation=0"), Path("runs/part"))
    Path("runs/bad").mkdir()
    Path("runs/bad/config.yaml").write_text("seed: -1")
    return made


def cells(out: str) -> list[list[str]]:
    return [re.split("  +", line.strip()) for line in out.splitlines()]


def test_compare_prints_a_ranking(several: dict[str, experiment.Run], mlpcli: Any):
    status, out, err = mlpcli("runs", "compare", "runs")
    assert status == 0
    heads, *rows = cells(out)
    assert heads == [
        *("run", "state", "validation error", "loss", "epochs", "seconds", "images/s"),
        *("seed", "validation", "hidden", "l2"),
    ]
    ranked = sorted(several.values(), key=lambda run: (run.validation_error, run.validation_loss))
    assert [row[0] for row in rows] == [*(f"runs/{run.path.name}" for run in ranked), "runs/bad", "runs/part"]
    best = ranked[0]
    assert rows[0][1:5] == ["finished", f"{best.validation_error:.2%}", f"{best.validation_loss:.4f}", "3/3"]
    b = next(row for row in rows if row[0] == "runs/b")
    assert b[-4:] == ["0", "0.1", "[]", "0.1"]
    assert rows[-2] == ["runs/bad", "damaged"]
    assert rows[-1][:3] == ["runs/part", "interrupted", "2/3"]
    assert err.startswith("mlpcli: runs/bad/config.yaml:1: seed: -1 is not allowed")


def test_compare_json_has_no_test_errors(several: dict[str, experiment.Run], mlpcli: Any):
    status, out, err = mlpcli("runs", "compare", "runs/a-0", "runs/b", "--json")
    assert (status, err, "test" in out) == (0, "", False)
    document = json.loads(out)
    assert document["differing"] == ["network.hidden", "training.l2"]
    of_b = next(run for run in document["runs"] if run["path"] == "runs/b")
    assert of_b["settings"] == {"network.hidden": [], "training.l2": 0.1}
    assert of_b["validation_loss"] == several["b"].validation_loss
    assert of_b["seconds"] == several["b"].seconds and of_b["examples_per_second"] > 0
    document = json.loads(mlpcli("runs", "compare", "runs", "--json", "--test")[1])
    assert {run["path"]: run["test_error"] for run in document["runs"]} == {
        **{f"runs/{name}": run.test_error for name, run in several.items()},
        **dict.fromkeys(("runs/bad", "runs/part")),
    }
    assert next(run for run in document["runs"] if run["path"] == "runs/bad")["problem"].startswith("runs/bad/config")


def test_test_errors_are_shown_on_request(several: dict[str, experiment.Run], mlpcli: Any):
    heads, first, _ = cells(mlpcli("runs", "compare", "runs/a-0", "runs/b", "--test")[1])
    run = several[first[0].removeprefix("runs/")]
    assert first[heads.index("test error")] == f"{run.test_error:.2%}"


def test_seeds_are_averaged(several: dict[str, experiment.Run], mlpcli: Any):
    errors = [several[name].validation_error or 0.0 for name in ("a-0", "a-1")]
    mean, apart = sum(errors) / 2, abs(errors[0] - errors[1])
    half = 12.7062 * apart / 2  # Student's t of one degree of freedom; the deviation of two is apart / sqrt(2)
    deviation, interval = f"{100 * apart / 2**0.5:.3f}", f"{100 * (mean - half):.2f} .. {100 * (mean + half):.2f}"
    assert errors[0] != errors[1]
    heads, *rows = cells(mlpcli("runs", "compare", "runs", "--group-seeds")[1])
    assert heads[:7] == ["run", "state", "seeds", "validation error", "n", "sd", "95 % interval"]
    assert "seed" not in heads
    row = next(row for row in rows if row[0].startswith("runs/a"))
    assert row[:7] == [row[0], "2 finished", "0 1", f"{mean:.2%}", "2", deviation, interval] and row[0].endswith(" +1")
    document = json.loads(mlpcli("runs", "compare", "runs", "--group-seeds", "--json")[1])
    assert document["differing"] == ["data.validation", "network.hidden", "training.l2"]
    group = next(group for group in document["groups"] if group["seeds"] == [0, 1])
    assert group["validation_error"]["low"] == min(errors) and "test_error" not in group
    assert group["validation_error"]["interval"]["high"] == pytest.approx(mean + half, rel=1e-5)
    tested = json.loads(mlpcli("runs", "compare", "runs", "--group-seeds", "--json", "--test")[1])["groups"]
    assert next(each for each in tested if each["seeds"] == [0, 1])["test_error"]["count"] == 2
    heads, *rows = cells(mlpcli("runs", "compare", "runs", "--group-seeds", "--test")[1])
    assert heads[heads.index("test error") :][:4] == ["test error", "n", "sd", "95 % interval"]
    assert [run["settings"]["seed"] for run in group["runs"]] == ([0, 1] if errors[0] < errors[1] else [1, 0])
    *table, note = mlpcli("runs", "compare", "runs/a-0", "runs/a-1")[1].splitlines()
    assert len(table) == 3
    spread = f"{mean:.2%}, sd {deviation}, 95 % interval {interval}"
    assert note == f"only the seed differs: validation error {spread}, of 2 finished runs"


def test_keys_of_one_name_show_their_section(tiny_config: Make, folder: Path, mlpcli: Any):
    for name, fraction in (("a", 0.1), ("b", 0.2)):
        experiment.train(tiny_config(f"data.validation={fraction}"), out=Path(name))
    assert cells(mlpcli("runs", "compare", "a", "b")[1])[0][-1] == "validation"
    from mlpcli.commands.runs import _short

    assert _short(["data.x", "network.x", "network.y"]) == ["data.x", "network.x", "y"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "'RUN|FOLDER...'"),
        (("nowhere",), 4, "nowhere: no such run"),
        ((".",), 4, ".: is not a run, and contains none"),
        (("runs", "nowhere"), 4, "nowhere: no such run"),
        (("runs/a/checkpoints/last.npz",), 4, "is a checkpoint; name its run: "),
    ],
)
def test_invalid_comparisons_are_refused(
    arguments: tuple[str, ...], status: int, message: str, tiny_config: Make, folder: Path, mlpcli: Any
):
    experiment.train(tiny_config("training.epochs=1"), out=Path("runs/a"))
    found, out, err = mlpcli("runs", "compare", *arguments)
    assert (found, out) == (status, "")
    assert message in err.splitlines()[-1]


# reproduce ----------------------------------------------------------------------------------------


def test_run_is_reproduced(tiny_config: Make, tiny_folder: Path, folder: Path, mlpcli: Any):
    experiment.train(tiny_config("training.optimizer=adam"), out=Path("first"))
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tiny_folder / name).unlink()  # the test set is not evaluated again
    status, out, err = mlpcli("runs", "reproduce", "first")
    assert (status, out) == (0, "first: reproduced, 3 epochs: metrics and parameters are equal bit for bit\n")
    assert "epoch 3/3" in err
    assert mlpcli("runs", "reproduce", "first", "--quiet")[::2] == (0, "")
    document = json.loads(mlpcli("runs", "reproduce", "first", "--json", "--quiet")[1])
    assert document == {
        "run": "first",
        "equal": True,
        "epochs": 3,
        "max_epochs": 3,
        "environment": [],
        "differences": [],
    }
    assert [path.name for path in folder.iterdir()] == ["first"]


def test_run_that_a_path_of_dots_names_is_reproduced(
    tiny_config: Make, folder: Path, mlpcli: Any, monkeypatch: pytest.MonkeyPatch
):
    experiment.train(tiny_config(), out=Path("first"))
    monkeypatch.chdir(Path("first/checkpoints").resolve())
    status, out, err = mlpcli("runs", "reproduce", "..", "--quiet")
    assert (status, err, "bit for bit" in out) == (0, "", True)


def test_student_is_shown_and_reproduced_with_moved_teachers(tiny_config: Make, folder: Path, mlpcli: Any):
    for seed in (0, 1):
        experiment.train(tiny_config(f"seed={seed}"), out=Path(f"teacher-{seed}"))
    experiment.train(tiny_config("training.teacher=[teacher-0, teacher-1]"), out=Path("student"))
    lines = mlpcli("runs", "show", "student")[1].splitlines()
    assert [line.split()[2] for line in lines if line.startswith("learned from")] == [
        "teacher-0/checkpoints/best.npz,",
        "teacher-1/checkpoints/best.npz,",
    ]
    moved = [Path(f"teacher-{seed}").rename(f"moved-{seed}") for seed in (0, 1)]
    status, _, err = mlpcli("runs", "reproduce", "student", "--quiet")
    assert (status, err.splitlines()[-1].split(":")[1]) == (4, " training.teacher")
    options = [part for path in moved for part in ("--teacher", str(path))]
    status, _, err = mlpcli("runs", "reproduce", "student", "--quiet", *options[:2])
    assert (status, err) == (2, "mlpcli: --teacher: 1 named, and student had 2; name each, in their order\n")
    status, out, _ = mlpcli("runs", "reproduce", "student", "--quiet", *options)
    assert (status, "bit for bit" in out) == (0, True)


def test_moved_data_are_named_with_data(tiny_config: Make, tiny_folder: Path, folder: Path, mlpcli: Any):
    interrupt(tiny_config(), Path("part"))
    moved = tiny_folder.rename(tiny_folder.with_name("moved"))
    for arguments in (("runs", "reproduce", "part"), ("train", "--resume", "part")):
        status, _, err = mlpcli(*arguments, "--quiet")
        reason = f"{tiny_folder}: the run's data are not there any more; name their place with --data"
        assert (status, err.splitlines()[0]) == (3, f"mlpcli: {reason}")
        assert mlpcli(*arguments, "--quiet", "--data", moved)[0] == 0


def test_runs_on_other_images_of_the_same_name_are_apart(
    tiny_config: Make, tiny_folder: Path, folder: Path, mlpcli: Any
):
    for seed in (0, 1, 2):
        if seed == 2:  # other images take the place of the first
            images = tiny_folder / "train-images-idx3-ubyte"
            images.write_bytes(images.read_bytes()[:-1] + b"\x7f")
        experiment.train(tiny_config(f"seed={seed}"), out=Path(f"runs/{seed}"))
    document = json.loads(mlpcli("runs", "compare", "runs", "--group-seeds", "--json")[1])
    assert sorted(group["seeds"] for group in document["groups"]) == [[0, 1], [2]]
    assert document["differing"] == ["data.dataset"]
    names = [group["settings"]["data.dataset"] for group in document["groups"]]
    assert len(set(names)) == 2 and all(name.endswith(f" {tiny_folder}") for name in names)


def test_resumed_and_prolonged_run_is_reproduced(tiny_config: Make, folder: Path, mlpcli: Any):
    interrupt(tiny_config("training.schedule=constant"), Path("first"))
    experiment.resume(Path("first"))
    experiment.resume(Path("first"), ("training.epochs=5",))
    assert mlpcli("runs", "reproduce", "first", "--quiet")[1].startswith("first: reproduced, 5 epochs: ")


def test_epochs_of_an_unfinished_run_are_reproduced(tiny_config: Make, folder: Path, mlpcli: Any):
    interrupt(tiny_config(), Path("part"))
    status, out, _ = mlpcli("runs", "reproduce", "part", "--quiet", "--keep", "again")
    assert (status, out.split(":")[1]) == (0, " reproduced, the 2 epochs it has")
    assert checkpoints.read(Path("again/checkpoints/last.npz")).epoch == 2
    assert mlpcli("runs", "reproduce", "part", "--keep", "again")[::2] == (
        4,
        "mlpcli: again: is a run already; name another --keep, or resume it: mlpcli train --resume again\n",
    )
    shutil.rmtree("part/checkpoints")
    assert "last.npz: cannot be read" in mlpcli("runs", "reproduce", "part")[2]


def test_run_without_an_epoch_cannot_be_reproduced(tiny_config: Make, folder: Path, mlpcli: Any):
    with pytest.raises(DivergedError):
        config = tiny_config("training.learning_rate=1e30", "network.objective=linear_quadratic")
        experiment.train(config, out=Path("a"))
    message = "mlpcli: a: no epoch was completed, so there is nothing to compare\n"
    assert mlpcli("runs", "reproduce", "a") == (4, "", message)


def test_differing_metric_is_shown_with_the_environment(tiny_config: Make, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("first"))
    change_metrics(Path("first"), 2, train_loss=0.5, seconds=1.0, examples_per_second=1.0)
    status, out, _ = mlpcli("runs", "reproduce", "first", "--quiet")
    lines = out.splitlines()
    assert status == 1 and lines[0] == "first: not reproduced, 3 epochs"
    assert lines[2].startswith("epoch 2 train_loss  0.5 ")
    assert lines[3:] == ["the environment is as recorded: versions, processor, BLAS and threads"]
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
def test_difference_of_one_bit_is_shown(tiny_config: Make, folder: Path, mlpcli: Any, name: str):
    experiment.train(tiny_config("data.validation=0.3"), out=Path("first"))
    path = Path(f"first/checkpoints/{name}.npz")
    checkpoint = checkpoints.read(path)
    checkpoint.parameters.W[0].view("u4")[3, 2] ^= 1
    checkpoint.state.optimizer["v"].view("u4")[5] ^= 1 << 31
    checkpoints.write(path, checkpoint)
    status, out, _ = mlpcli("runs", "reproduce", "first", "--quiet")
    assert status == 1
    assert f"{name}.npz W1: 1 of 120 numbers, furthest apart" in out
    assert f"{name}.npz optimizer_v: 1 of 147 numbers, furthest apart" in out


@pytest.mark.parametrize("name", ["W1", "average_W1", "optimizer_v"])
def test_every_array_of_a_checkpoint_is_compared(tiny_config: Make, folder: Path, mlpcli: Any, name: str):
    experiment.train(tiny_config("training.averaging=0.9", "training.optimizer=momentum"), out=Path("first"))
    path = Path("first/checkpoints/last.npz")
    checkpoint = checkpoints.read(path)
    state = checkpoint.state
    vector = {"W1": state.theta.vector, "average_W1": state.average.vector, "optimizer_v": state.optimizer["v"]}[name]
    vector[0] = 5.0
    checkpoints.write(path, checkpoint)
    status, out, _ = mlpcli("runs", "reproduce", "first", "--quiet")
    assert (status, out.splitlines()[2].split(" of ")[0]) == (1, f"last.npz {name}: 1")


def test_many_differences_are_counted(tiny_config: Make, folder: Path, mlpcli: Any):
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


def test_missing_best_is_a_difference(tiny_config: Make, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("first"))
    Path("first/checkpoints/best.npz").unlink()
    out = mlpcli("runs", "reproduce", "first", "--quiet")[1]
    assert [line.split() for line in out.splitlines()][2] == ["best.npz", "missing", "there"]


def test_other_data_cannot_reproduce_a_run(tiny_config: Make, tiny_folder: Path, folder: Path, mlpcli: Any):
    experiment.train(tiny_config(), out=Path("first"))
    path = tiny_folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    status, _, err = mlpcli("runs", "reproduce", "first")
    assert status == 3 and "train-images-idx3-ubyte is not the file the run was trained on" in err


@pytest.mark.parametrize("command", ["compare", "show", "reproduce"])
def test_folder_that_may_not_be_searched_is_not_called_no_run(tmp_path, mlpcli, monkeypatch, command):
    lstat = Path.lstat

    def forbidden(self: Path) -> Any:
        if tmp_path / "private" in self.parents:
            raise PermissionError(13, "Permission denied")
        return lstat(self)

    (tmp_path / "private").mkdir()
    monkeypatch.setattr(Path, "lstat", forbidden)
    for name in ("private", "private/run"):
        found = mlpcli("runs", command, tmp_path / name)
        assert found == (4, "", f"mlpcli: {tmp_path / name}: cannot be read: Permission denied\n")


def test_folder_that_cannot_be_read_is_one_line_and_status_4(tmp_path, mlpcli, monkeypatch):
    (tmp_path / "private").mkdir()
    iterdir = Path.iterdir

    def forbidden(self: Path) -> Any:
        if self.name == "private":
            raise PermissionError(13, "Permission denied")
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    found = mlpcli("runs", "list", tmp_path / "private")
    assert found == (4, "", f"mlpcli: {tmp_path / 'private'}: cannot be read: Permission denied\n")


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_repeated_seed_in_a_group_is_a_remark(tiny_config: Make, folder: Path, mlpcli: Any, json_option: list[str]):
    for name, seed in (("a", 0), ("b", 1)):
        experiment.train(tiny_config(f"seed={seed}", "training.epochs=1"), out=Path("runs") / name)
    status, _, err = mlpcli("runs", "compare", "runs", "--group-seeds", *json_option)
    assert (status, err) == (0, "")
    shutil.copytree("runs/b", "runs/copy")
    for runs in (["runs"], ["runs/b", "runs/copy"]):
        status, _, err = mlpcli("runs", "compare", *runs, "--group-seeds", *json_option)
        assert (status, err.count("\n")) == (0, 1)
        assert err.startswith("remark   runs/b and runs/copy have one config and one seed, but count as 2 of n: ")
