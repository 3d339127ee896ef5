"""``train``: its run directory, one final evaluation of the test images, and byte-identical repetition."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES, ROLES
from mlpcli.datasets.load import Dataset
from mlpcli.errors import ConfigError, DataError, DivergedError, RunError, UnavailableError, UsageError
from mlpcli.experiment import Observer, Run, reproduce, resume, train
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.state import EpochRecord
from mlpcli.training.trainer import Trainer

MakeConfig = Callable[..., Config]

TEST_FILES = [FILE_NAMES["test_images"], FILE_NAMES["test_labels"]]
TIMES = ("seconds", "examples_per_second")


class Recorder(Observer):
    """An observer that records events; calls ``after["epoch_2"]`` once that epoch is saved, ``after["end"]`` last."""

    def __init__(self, **after: Callable[[], object]) -> None:
        self.events: list[Any] = []
        self.messages: list[str] = []
        self.records: list[EpochRecord] = []
        self._after = after

    def say(self, message: str) -> None:
        self.messages.append(message)

    def begin(self, run: Path, trainer: Trainer, dataset: Dataset) -> None:
        self.events.append(("begin", run, dataset.name))

    def step(self, loss: float) -> None:
        self.events.append("step")

    def epoch(self, record: EpochRecord, best: bool) -> None:
        self.events.append(("epoch", record.epoch, best))
        self.records.append(record)
        self._after.get(f"epoch_{record.epoch}", lambda: None)()

    def end(self) -> None:
        self.events.append("end")
        self._after.get("end", lambda: None)()


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_timing(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def bytes_of(run: Path) -> dict[str, bytes]:
    """Return the files in which equal runs are byte-identical."""
    names = ("config.yaml", "test.json", "checkpoints/last.npz", "checkpoints/previous.npz", "checkpoints/best.npz")
    return {name: (run / name).read_bytes() for name in names}


def damage(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"no IDX file")


# Files of a run --------------------------------------------------------------------------------


def test_run_is_a_folder_of_files(tiny_config: MakeConfig, tmp_path: Path):
    run = train(tiny_config(), out=tmp_path / "run")
    found = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    assert found - {".lock", "steps.jsonl"} == {
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "test.json",
        "checkpoints/last.npz",
        "checkpoints/previous.npz",
        "checkpoints/best.npz",
    }


def test_metrics_are_the_records(tiny_config: MakeConfig, tmp_path: Path):
    recorder = Recorder()
    run = train(tiny_config(), out=tmp_path / "run", observer=recorder)
    lines = metrics_of(run.path)
    assert [list(line) for line in lines] == [[field.name for field in fields(EpochRecord)]] * 3
    assert lines == [vars(record) for record in recorder.records]


def test_observer_calls_are_in_order(tiny_config: MakeConfig, tmp_path: Path):
    recorder = Recorder()
    train(tiny_config("training.epochs=2"), out=tmp_path / "run", observer=recorder)
    steps = ["step"] * 4  # 63 images by 16
    scores = [(record.validation_error, record.validation_loss) for record in recorder.records]
    first, second = ("epoch", 1, True), ("epoch", 2, scores[1] < scores[0])
    assert recorder.events[:11] == [("begin", tmp_path / "run", "tiny"), *steps, first, *steps, second]
    assert recorder.events[11:] == ["end"]
    assert recorder.messages == []


def test_epoch_is_on_disk_before_observer_epoch(tiny_config: MakeConfig, tmp_path: Path):
    path = tmp_path / "run"

    def check() -> None:
        assert [line["epoch"] for line in metrics_of(path)] == [1, 2]
        assert checkpoints.read(path / "checkpoints/last.npz").epoch == 2
        assert json.loads((path / "manifest.json").read_text())["state"] == "running"
        assert not (path / "test.json").exists()

    observer = Recorder(epoch_2=check)
    train(tiny_config(), out=path, observer=observer)
    assert len(observer.records) == 3


def test_returned_result_agrees_with_the_files(tiny_config: MakeConfig, tmp_path: Path):
    config = tiny_config("training.epochs=5")
    run = train(config, out=tmp_path / "run")
    lines = metrics_of(run.path)
    best = min(lines, key=lambda line: (line["validation_error"], line["validation_loss"]))
    test = json.loads((run.path / "test.json").read_text())
    assert run == Run(
        path=tmp_path / "run",
        config=config,
        dataset="tiny",
        fallback_from=None,
        epochs=5,
        best_epoch=best["epoch"],
        validation_error=best["validation_error"],
        validation_loss=best["validation_loss"],
        test_examples=30,
        test_errors=test["errors"],
        test_error=test["error"],
        test_loss=test["loss"],
        train_error=lines[-1]["train_error"],
        train_loss=lines[-1]["train_loss"],
        seconds=sum(line["seconds"] for line in lines),
    )


@pytest.mark.parametrize(("validation", "checkpoint"), [("0.1", "best"), ("0", "last")])
def test_test_result_is_reproduced_by_numpy_alone(
    validation: str, checkpoint: str, tiny_config: MakeConfig, tiny_images: tuple[np.ndarray, ...], tmp_path: Path
):
    config = tiny_config(f"data.validation={validation}", "network.dtype=float64", "training.epochs=6")
    run = train(config, out=tmp_path / "run")
    result = json.loads((run.path / "test.json").read_text())
    assert list(result) == ["checkpoint", "examples", "errors", "error", "loss"]
    assert result["checkpoint"] == checkpoint
    assert (run.path / "checkpoints/best.npz").exists() == (checkpoint == "best")

    with np.load(run.path / f"checkpoints/{checkpoint}.npz", allow_pickle=False) as arrays:
        X, y = tiny_images[2].reshape(30, 20) / 255, tiny_images[3]
        z = 1 / (1 + np.exp(-(X @ arrays["W1"] + arrays["b1"]))) @ arrays["W2"] + arrays["b2"]
    errors = int(np.sum(z.argmax(axis=1) != y))
    assert 0 < errors < 30
    assert (result["examples"], result["errors"], result["error"]) == (30, errors, errors / 30)
    assert result["loss"] == pytest.approx(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(30), y]), rel=1e-12)


def test_no_best_without_validation_images(tiny_config: MakeConfig, tmp_path: Path):
    run = train(tiny_config("data.validation=0"), out=tmp_path / "run")
    assert (run.best_epoch, run.validation_error, run.validation_loss) == (None, None, None)
    assert run.test_error is not None


def test_early_stopping_tests_the_best_epoch(tiny_config: MakeConfig, tmp_path: Path):
    run = train(
        tiny_config("training.patience=2", "training.epochs=50", "training.learning_rate=1e-30"), out=tmp_path / "run"
    )
    assert (run.best_epoch, run.epochs) == (1, 3)
    assert checkpoints.read(run.path / "checkpoints/best.npz").epoch == 1
    assert checkpoints.read(run.path / "checkpoints/last.npz").epoch == 3


# The manifest -------------------------------------------------------------------------------------


def test_manifest_has_versions_threads_and_data(tiny_config: MakeConfig, tiny_folder: Path, tmp_path: Path):
    run = train(tiny_config(), out=tmp_path / "run")
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert list(manifest) == ["started", "environment", "data", "resumed", "state", "epochs"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", manifest["started"])
    assert manifest["state"] == "finished"
    assert manifest["resumed"] == []
    assert list(manifest["environment"]) == [
        "mlpcli", "python", "numpy", "blas", "threads", "system", "machine", "processor",
    ]  # fmt: skip
    assert manifest["environment"]["numpy"] == np.__version__
    hashes = {name: hashlib.sha256((tiny_folder / name).read_bytes()).hexdigest() for name in FILE_NAMES.values()}
    assert manifest["data"] == {"dataset": "tiny", "fallback_from": None, "hashes": hashes}


def test_only_the_config_has_paths_and_users(tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("LOGNAME", "USER", "HOME"):
        monkeypatch.setenv(name, "/somebody")
    run = train(tiny_config(), out=tmp_path / "run")
    for name in ("manifest.json", "metrics.jsonl", "test.json"):
        text = (run.path / name).read_text()
        assert str(tmp_path) not in text
        assert "somebody" not in text
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
        assert '"/' not in text


# The test images ----------------------------------------------------------------------------------


def test_test_files_are_not_needed_without_a_test(tiny_config: MakeConfig, tiny_folder: Path, tmp_path: Path):
    for name in TEST_FILES:
        (tiny_folder / name).unlink()
    run = train(tiny_config("data.test=false"), out=tmp_path / "run")
    assert (run.test_examples, run.test_errors, run.test_error, run.test_loss) == (None, None, None, None)
    assert not (run.path / "test.json").exists()
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert set(manifest["data"]["hashes"]) == {FILE_NAMES["train_images"], FILE_NAMES["train_labels"]}
    assert manifest["state"] == "finished"


def test_missing_test_files_are_found_before_training(tiny_config: MakeConfig, tiny_folder: Path, tmp_path: Path):
    (tiny_folder / TEST_FILES[0]).unlink()
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte: not there"):
        train(tiny_config(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", ["shape", "count", "class", "no IDX"])
def test_wrong_test_files_are_refused_before_training(
    wrong: str, tiny_config: MakeConfig, tiny_folder: Path, tiny_images: tuple[np.ndarray, ...], tmp_path: Path
):
    images, labels = tiny_images[2:]
    files = {
        "shape": (images[:, 1:], labels),
        "count": (images[1:], labels),
        "class": (images, np.where(labels, labels, 9).astype(np.uint8)),
    }
    damage(tiny_folder, *TEST_FILES)
    if wrong in files:
        for name, array in zip(TEST_FILES, files[wrong], strict=True):
            (tiny_folder / name).write_bytes(idx.encode(array))
    with pytest.raises(DataError):
        train(tiny_config(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert train(tiny_config("data.test=false"), out=tmp_path / "run").test_error is None


def test_run_survives_a_wrong_test_set(tiny_config: MakeConfig, tiny_folder: Path, tmp_path: Path):
    recorder = Recorder(epoch_3=lambda: damage(tiny_folder, *TEST_FILES))
    with pytest.raises(DataError, match=r"--resume \S+/run --set data.test=false$"):
        train(tiny_config(), out=tmp_path / "run", observer=recorder)
    run = resume(tmp_path / "run", ["data.test=false"])
    assert (run.epochs, run.test_error, run.config.data.test) == (3, None, False)
    assert json.loads((run.path / "manifest.json").read_text())["state"] == "finished"


def test_remarks_come_before_and_after_training(
    tiny_config: MakeConfig, tiny_folder: Path, tiny_images: tuple[np.ndarray, ...], tmp_path: Path
):
    (tiny_folder / FILE_NAMES["train_images"]).write_bytes(idx.encode(tiny_images[0] // 255))
    recorder = Recorder()
    recorder.say = recorder.events.append  # type: ignore[method-assign, assignment]
    slow = tiny_config("training.epochs=1", "training.learning_rate=1e-9", "training.batch_size=1")
    train(slow, out=tmp_path / "run", observer=recorder)
    messages = [event for event in recorder.events if isinstance(event, str) and " " in event]
    before = next(event for event in messages if event.startswith("remark"))
    last = messages[-1]
    assert recorder.events.index(before) < recorder.events.index(("epoch", 1, True))
    assert before.startswith("remark   the training images are nearly black")
    assert last.startswith("remark   the result is no better than guessing: training error ")
    assert recorder.events.index(last) > recorder.events.index(("epoch", 1, True))


def test_unusual_rate_is_one_remark(tiny_config: MakeConfig, tmp_path: Path):

    class InOrder(Recorder):
        def say(self, message: str) -> None:
            self.events.append(message)

    recorder = InOrder()
    train(tiny_config("training.learning_rate=1e4", "training.batch_size=1"), out=tmp_path / "run", observer=recorder)
    *found, end = [event for event in recorder.events if isinstance(event, str) and event.startswith("remark")]
    on_rate = [remark for remark in found if "learning_rate" in remark]
    assert len(on_rate) == 1
    assert on_rate[0].startswith("remark   training.learning_rate: 10000 is ")
    assert recorder.events.index(on_rate[0]) < next(i for i, event in enumerate(recorder.events) if event[0] == "epoch")
    assert end.startswith("remark   the result is no better than guessing")


def test_network_too_large_is_refused_before_data_are_fetched(tmp_path: Path):
    large = ["network.hidden=[100000]", "network.dtype=float64", "training.optimizer=adam", "training.averaging=0.9"]
    settings = [*large, f"data.folder={tmp_path}/none", 'data.sources=["http://127.0.0.1:9/"]']
    with pytest.raises(ConfigError, match="at most 2 GiB"):
        train(None, settings, out=tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_config_too_large_for_its_file_is_refused(tiny_config: MakeConfig, tmp_path: Path):
    overrides = [f"data.sources=[{'x' * 65_000}]"]
    config = tiny_config(*overrides)
    with pytest.raises(ConfigError, match=r"^data.sources: is written in [\d,]+ bytes, .*; at most 65,536") as error:
        train(config, out=tmp_path / "run")
    assert len(str(error.value)) < 200
    assert not (tmp_path / "run").exists()
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), out=tmp_path / "run", observer=Interrupting())
    with pytest.raises(ConfigError, match=r"^data.sources: is written in "):
        resume(tmp_path / "run", overrides)
    resume(tmp_path / "run")


@pytest.mark.parametrize("kind", [KeyError, StopIteration, RuntimeError])
@pytest.mark.parametrize("moment", ["step", "epoch"])
def test_exception_of_an_observer_comes_out_after_one_end(
    tiny_config: MakeConfig, tmp_path: Path, moment: str, kind: type[Exception]
):
    def fail() -> None:
        raise kind("own")

    class Failing(Recorder):
        def step(self, loss: float) -> None:
            if moment == "step":
                fail()

    recorder = Failing(epoch_1=fail)
    with pytest.raises(kind, match=r"^'?own'?$"):
        train(tiny_config(), out=tmp_path / "run", observer=recorder)
    assert recorder.events.count("end") == 1
    assert recorder.events[-1] == "end"


class Interrupting(Observer):
    def epoch(self, record: EpochRecord, best: bool) -> None:
        raise KeyboardInterrupt


def test_observer_end_comes_before_test_images_are_evaluated(
    tiny_config: MakeConfig, tiny_folder: Path, tmp_path: Path
):
    recorder = Recorder(end=lambda: damage(tiny_folder, *TEST_FILES))
    with pytest.raises(DataError, match="not an IDX file"):
        train(tiny_config(), out=tmp_path / "run", observer=recorder)


def test_test_files_damaged_during_training_show_at_its_end(tiny_config: MakeConfig, tiny_folder: Path, tmp_path: Path):
    recorder = Recorder(epoch_1=lambda: damage(tiny_folder, *TEST_FILES))
    with pytest.raises(DataError, match="not an IDX file"):
        train(tiny_config(), out=tmp_path / "run", observer=recorder)
    assert len(recorder.records) == 3
    assert recorder.events[-1] == "end"
    assert checkpoints.read(tmp_path / "run/checkpoints/last.npz").epoch == 3
    assert not (tmp_path / "run/test.json").exists()


def test_test_images_change_only_the_test_result(
    tiny_config: MakeConfig, tiny_folder: Path, tiny_images: tuple[np.ndarray, ...], tmp_path: Path
):
    one = bytes_of(train(tiny_config(), out=tmp_path / "one").path)
    (tiny_folder / TEST_FILES[1]).write_bytes(idx.encode((tiny_images[3] + 1) % 3))
    other = bytes_of(train(tiny_config(), out=tmp_path / "other").path)
    assert one.pop("test.json") != other.pop("test.json")
    assert one == other


# Repetition ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "optimizer"), [("float32", "nesterov"), ("float64", "adam")])
def test_same_config_gives_the_same_bytes(dtype: str, optimizer: str, tiny_config: MakeConfig, tmp_path: Path):
    config = tiny_config(f"network.dtype={dtype}", f"training.optimizer={optimizer}")
    one, other = (train(config, out=tmp_path / name).path for name in ("one", "other"))
    assert bytes_of(one) == bytes_of(other)
    assert without_timing(metrics_of(one)) == without_timing(metrics_of(other))


def test_config_of_a_run_trains_the_same_run(tiny_config: MakeConfig, tmp_path: Path):
    config = tiny_config("training.l2=1e-4", "training.schedule=step", "seed=7", "training.warmup_epochs=0.5")
    one = train(config, out=tmp_path / "one").path
    other = train(config_module.load(one / "config.yaml", (), {}), out=tmp_path / "other").path
    assert bytes_of(one) == bytes_of(other)


def test_other_seed_gives_another_run(tiny_config: MakeConfig, tmp_path: Path):
    one, other = (train(tiny_config(f"seed={seed}"), out=tmp_path / str(seed)).path for seed in (0, 1))
    assert without_timing(metrics_of(one)) != without_timing(metrics_of(other))


# Arguments ------------------------------------------------------------------------------------


def test_config_may_be_a_file_a_name_or_defaults(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    config = tiny_config("training.epochs=1")
    flat = config_module.flatten(config)
    everything = [f"{key}={json.dumps(value)}" for key, value in flat.items() if not key.startswith("augmentation.")]
    Path("my.yaml").write_text(config_module.to_yaml(config))
    runs = {
        "mnist": [train(config), train(overrides=everything), train(None, everything, out="here")],
        "my": [train("my.yaml"), train(Path("my.yaml"))],
        "quickstart": [train("quickstart", everything), train("quickstart", iter(everything))],
        "mine": [train("quickstart", everything, name="mine")],
    }
    assert runs["mnist"].pop().path == Path("here")
    for name, found in runs.items():
        for run in found:
            assert run.config == config
            assert re.fullmatch(rf"runs/{name}-\d{{8}}-\d{{6}}(-\d+)?", str(run.path))


def test_single_override_may_be_text(tiny_config: MakeConfig, tmp_path: Path):
    (tmp_path / "my.yaml").write_text(config_module.to_yaml(tiny_config()))
    run = train(str(tmp_path / "my.yaml"), "training.epochs=2", out=str(tmp_path / "run"))
    assert run.epochs == 2
    assert resume(str(run.path)) == run
    with pytest.raises(UsageError, match=r"training\.epochs: 2 -> 1"):
        resume(str(run.path), "training.epochs=1")


def test_invalid_config_is_refused(tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for thing in (3, {"seed": 1}, ["seed=1"]):
        with pytest.raises(UsageError, match="is no config; give a Config, a file, or a name from"):
            train(thing)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean quickstart"):
        train("quikstart")
    with pytest.raises(UsageError, match=r"a Config takes no overrides: change it with dataclasses\.replace"):
        train(tiny_config(), ["seed=1"])
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"out": 5}, r"^out: 5 is not a path; give that of the new run directory$"),
        ({"name": "../a"}, r"^name: '\.\./a' is not the name of a folder in runs/; "),
        ({"name": 5}, r"^name: 5 is not the name of a folder in runs/; "),
        ({"overrides": 5}, r"^5 are no overrides; give a list"),
    ],
)
def test_wrong_arguments_of_train_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: dict[str, Any], words: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        train(**argument)
    assert list(tmp_path.iterdir()) == []


# Output folder----------------------------------------------------------------------------------


def test_default_folder_is_below_runs(tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    paths = [train(tiny_config("training.epochs=1"), name=name).path for name in ("first", "first", "second")]
    assert len(set(paths)) == 3
    for path, name in zip(paths, ("first", "first", "second"), strict=True):
        assert re.fullmatch(rf"runs/{name}-\d{{8}}-\d{{6}}(-\d+)?", str(path))
        assert (tmp_path / path / "test.json").exists()


def test_empty_folder_is_accepted(tiny_config: MakeConfig, tmp_path: Path):
    (tmp_path / "run").mkdir()
    assert train(tiny_config(), out=tmp_path / "run").path == tmp_path / "run"


def test_nonempty_folder_is_refused_unchanged(tiny_config: MakeConfig, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not empty"):
        train(tiny_config(), out=tmp_path / "run")
    assert (tmp_path / "run/mine.txt").read_text() == "mine"
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"mine.txt", ".lock"}


def test_nonempty_out_is_refused_before_data_are_fetched(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    nowhere = (f'data.folder="{tmp_path / "data"}"', f'data.sources=["{tmp_path}/nowhere"]')
    with pytest.raises(RunError, match="exists and is not empty"):
        train(config_module.load(None, nowhere, {}), out=tmp_path / "run")


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_file_in_place_of_the_folder_is_refused(out: str, tiny_config: MakeConfig, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=re.escape(str(tmp_path / "file"))):
        train(tiny_config(), out=tmp_path / out)


# Errors ----------------------------------------------------------------------------------------


def slowly_diverging(tiny_config: MakeConfig) -> Config:
    least_squares = ("network.hidden=[]", "network.objective=linear_quadratic", "training.optimizer=sgd")
    return tiny_config(*least_squares, "training.schedule=constant", "training.learning_rate=2", "training.epochs=99")


def test_divergence_names_the_last_good_checkpoint(tiny_config: MakeConfig, tmp_path: Path):
    recorder, path = Recorder(), tmp_path / "run"
    with pytest.raises(DivergedError) as caught:
        train(slowly_diverging(tiny_config), out=path, observer=recorder)
    epochs = len(recorder.records)
    assert 1 < epochs < 99
    assert recorder.events[-1] == "end"
    assert str(caught.value).endswith(f"; the last good checkpoint, of epoch {epochs}, is in {path}")
    last = checkpoints.read(path / "checkpoints/last.npz")
    assert last.epoch == epochs
    assert np.isfinite(last.parameters.vector).all()
    assert json.loads((path / "manifest.json").read_text())["state"] == "diverged"
    assert not (path / "test.json").exists()
    for line in (path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in metrics.jsonl"))


def test_divergence_in_first_epoch_reports_no_checkpoint(tiny_config: MakeConfig, tmp_path: Path):
    config = replace(tiny_config(), network=replace(tiny_config().network, initial_scale=1e300))
    with pytest.raises(DivergedError, match="no epoch was completed"):
        train(config, out=tmp_path / "run")
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_fallback_is_reported_and_recorded(tmp_path: Path):
    elsewhere = ("data.fallback=mnist-sample", f'data.folder="{tmp_path}"', f'data.sources=["{tmp_path}/nowhere"]')
    config = config_module.load(None, (*elsewhere, "network.hidden=[]", "training.epochs=1"), {})
    recorder = Recorder()
    run = train(config, out=tmp_path / "run", observer=recorder)
    assert (run.dataset, run.fallback_from) == ("mnist-sample", "mnist")
    assert run.config == config
    assert "using mnist-sample instead of mnist" in "\n".join(recorder.messages)
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert (manifest["data"]["dataset"], manifest["data"]["fallback_from"]) == ("mnist-sample", "mnist")
    assert checkpoints.read(run.path / "checkpoints/last.npz").dataset == "mnist-sample"


@pytest.mark.parametrize("place", ["/no/such/place", "fashion-mnist"])
def test_run_on_the_fallback_goes_on_with_it(tmp_path: Path, place: str):
    elsewhere = ("data.fallback=mnist-sample", f'data.folder="{tmp_path}"', f'data.sources=["{tmp_path}/nowhere"]')
    config = config_module.load(None, (*elsewhere, "network.hidden=[]", "training.epochs=2", "data.test=false"), {})

    class Stop(Observer):
        def epoch(self, record: EpochRecord, best: bool) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "run", observer=Stop())
    before = (tmp_path / "run/config.yaml").read_bytes()
    for again in (resume, reproduce):
        with pytest.raises(UsageError, match=r"trained on mnist-sample, as mnist was not available.*: leave --data"):
            again(tmp_path / "run", [f"data.dataset={place}"])
    assert (tmp_path / "run/config.yaml").read_bytes() == before
    assert resume(tmp_path / "run").dataset == "mnist-sample"


def test_missing_data_leave_no_folder(tmp_path: Path):
    nowhere = (f'data.folder="{tmp_path / "data"}"', f'data.sources=["{tmp_path}/nowhere"]')
    with pytest.raises(UnavailableError, match="nowhere: no such folder"):
        train(config_module.load(None, nowhere, {}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_any_image_size_and_number_of_classes(tmp_path: Path):
    """Train on a folder of 3 x 7 images of 26 classes, with fewer in the test set."""
    random = np.random.default_rng(0)
    labels = (np.arange(52) % 26).astype(np.uint8)
    images = random.integers(0, 256, (52, 3, 7), np.uint8)
    for role, array in zip(ROLES, (images, labels, images[:5], labels[:5]), strict=True):
        (tmp_path / FILE_NAMES[role]).write_bytes(idx.encode(array))
    few = (f'data.dataset="{tmp_path}"', "training.epochs=1", "network.hidden=[4]")
    run = train(config_module.load(None, few, {}), out=tmp_path / "run")
    checkpoint = checkpoints.read(run.path / "checkpoints/last.npz")
    assert (checkpoint.image_shape, checkpoint.classes) == ((3, 7), 26)
    assert [tensor.shape for _, tensor in checkpoint.parameters.tensors()] == [(21, 4), (4,), (4, 26), (26,)]


def test_nonfinite_test_loss_is_reported_and_not_saved(tiny_config: MakeConfig, tiny_folder: Path):
    """Black training images hide the huge weights; bright test images do not."""
    for role, shade in (("train_images", 0), ("test_images", 255)):
        path = tiny_folder / FILE_NAMES[role]  # type: ignore[index]
        path.write_bytes(idx.encode(np.full_like(idx.decode(path.read_bytes(), str(path), 3), shade)))
    huge = ("network.hidden=[]", "network.objective=linear_quadratic", "network.initial_scale=1e30", "training.l2=0")
    with pytest.raises(DivergedError, match="the test loss is inf"):
        train(tiny_config(*huge, "training.learning_rate=1e-30"), out=tiny_folder.parent / "run")
    assert not (tiny_folder.parent / "run/test.json").exists()
