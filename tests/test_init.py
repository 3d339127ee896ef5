"""Runs that start from a trained network: layers taken, layers drawn, and byte-identical repetition."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES
from mlpcli.errors import ConfigError, DataError, RunError, UsageError
from mlpcli.experiment import reproduce, resume, train
from mlpcli.parallel.forked import ForkedGroup
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.sweep.execute import tasks
from mlpcli.sweep.plan import read
from tests.listener import Listener
from tests.run_outcome import outcome

Make = Callable[..., Config]


@pytest.fixture
def first(tiny_config: Make, tmp_path: Path) -> Path:
    return train(tiny_config(), out=tmp_path / "first").path


def from_(first: Path, config: Config) -> Config:
    return replace(config, network=replace(config.network, init=str(first)))


def trained(run: Path) -> checkpoints.Checkpoint:
    return checkpoints.read(directory.find_checkpoint(run))


def test_run_starts_from_weights_of_another(tiny_config, first, tmp_path):
    listener = Listener()
    run = train(from_(first, tiny_config("seed=7")), out=tmp_path / "second", observer=listener)
    assert np.array_equal(listener.theta, trained(first).parameters.vector)
    assert any("begins from" in line and "drawn anew" not in line for line in listener.messages)
    file = first / "checkpoints" / "best.npz"
    _, sha256 = checkpoints.read_with_hash(file)
    assert (run.config.network.init, run.config.network.init_sha256) == (str(file), sha256)
    assert directory.read_config(run.path) == run.config
    recorded = directory.read_manifest(run.path)["init"]
    assert recorded == {
        "sha256": sha256,
        "dataset": trained(first).dataset,
        "epoch": trained(first).epoch,
        "drawn": [],
    }


def test_average_is_taken_from_an_averaged_run(tiny_config, tmp_path):
    first = train(tiny_config("training.averaging=0.9"), out=tmp_path / "first").path
    listener = Listener()
    train(from_(first, tiny_config()), out=tmp_path / "second", observer=listener)
    assert np.array_equal(listener.theta, trained(first).state.average.vector)


def test_layer_of_another_shape_is_drawn_and_named(tiny_config, first, tmp_path):
    listener, fresh = Listener(), Listener()
    config = tiny_config("network.hidden=[6, 5]", "seed=3")
    train(config, out=tmp_path / "fresh", observer=fresh)
    run = train(from_(first, config), out=tmp_path / "second", observer=listener)
    begun = trained(first).parameters
    sizes = trained(run.path).parameters.sizes
    theta, drawn = (type(begun)(sizes, "float32", vector) for vector in (listener.theta, fresh.theta))
    assert np.array_equal(theta.W[0], begun.W[0])
    assert np.array_equal(theta.b[0], begun.b[0])
    assert np.array_equal(theta.W[1], drawn.W[1])
    assert np.array_equal(theta.W[2], drawn.W[2])
    assert any(
        "layer 2 (W2, b2) is drawn anew" in line and "6 x 3 there and 6 x 5 here" in line for line in listener.messages
    )
    assert directory.read_manifest(run.path)["init"]["drawn"] == ["W2", "b2", "W3", "b3"]


def test_output_layer_is_drawn_for_other_classes(tiny_config, first, tmp_path):
    listener = Listener()
    run = train(from_(first, tiny_config("data.class_names=[a, b, c]")), out=tmp_path / "second", observer=listener)
    assert any("as the classes are others" in line for line in listener.messages)
    assert directory.read_manifest(run.path)["init"]["drawn"] == ["W2", "b2"]


def test_other_activation_is_reported(tiny_config, first, tmp_path):
    listener = Listener()
    train(from_(first, tiny_config("network.activation=relu")), out=tmp_path / "second", observer=listener)
    assert "its hidden units were trained as sigmoid, and are relu now" in listener.messages


def test_network_without_a_fitting_layer_is_refused(tiny_config, first, tmp_path):
    with pytest.raises(ConfigError, match=r"20-6-3, of which no layer fits .* 20-7-3; .*--set network.hidden=\[6\]"):
        train(from_(first, tiny_config("network.hidden=[7]")), out=tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_images_of_another_size_are_refused(tiny_config, tiny_folder, first, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "wide")
    path = tmp_path / "wide" / FILE_NAMES["train_images"]
    path.write_bytes(idx.encode(idx.decode(path.read_bytes(), "", 3).reshape(-1, 4, 5)))
    config = tiny_config("data.test=false", f'data.dataset="{tmp_path / "wide"}"')
    with pytest.raises(DataError, match=r"takes images of 5 x 4 pixels, those of .* are of 4 x 5"):
        train(from_(first, config), out=tmp_path / "second")


def test_invalid_checkpoint_is_refused_in_one_line(tiny_config, tmp_path):
    (tmp_path / "text").write_text("no checkpoint")
    for name in ("nowhere", "text", "."):
        with pytest.raises(RunError, match=r"^network.init: ") as error:
            train(from_(tmp_path / name, tiny_config()), out=tmp_path / "second")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["config.yaml", "manifest.json", "metrics.jsonl"])
def test_damaged_run_is_refused_as_init(tiny_config, first, tmp_path, file):
    (first / file).write_text("[\n")
    with pytest.raises((RunError, ConfigError), match=rf"^network.init: .*{file}"):
        train(from_(first, tiny_config()), out=tmp_path / "second")
    assert not (tmp_path / "second").exists()
    train(from_(first / "checkpoints/best.npz", tiny_config()), out=tmp_path / "third")


@pytest.mark.parametrize("stop_after", [0, 1])
def test_resume_is_bit_identical(tiny_config, first, tmp_path, stop_after):
    config = from_(first, tiny_config())
    whole = train(config, out=tmp_path / "whole").path
    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "part", observer=Listener(stop_after))
    resume(tmp_path / "part")
    assert outcome(tmp_path / "part") == outcome(whole)
    assert directory.read_manifest(tmp_path / "part")["init"] == directory.read_manifest(whole)["init"]


def test_all_processes_start_from_the_same_weights(tiny_config, first, tmp_path):
    listener = Listener()
    with ForkedGroup(2) as group:
        train(from_(first, tiny_config()), out=tmp_path / "second", observer=listener, group=group)
    assert np.array_equal(listener.theta, trained(first).parameters.vector)


def test_reproduction_needs_the_same_checkpoint(tiny_config, first, tmp_path):
    run = train(from_(first, tiny_config()), out=tmp_path / "second").path
    assert not reproduce(run).differences
    moved = first.rename(tmp_path / "moved")
    with pytest.raises(RunError, match="no such run or checkpoint"):
        reproduce(run)
    assert not reproduce(run, [f"network.init={json.dumps(str(moved))}"]).differences
    other = train(tiny_config("seed=9"), out=first).path
    with pytest.raises(RunError, match=r"is not the checkpoint named by network.init_sha256"):
        reproduce(run)
    with pytest.raises(RunError, match="is not the checkpoint"):
        resume_from_other = run / "checkpoints"
        shutil.rmtree(resume_from_other)
        resume_from_other.mkdir()
        resume(run)
    assert other == first


def test_hash_without_a_checkpoint_is_refused():
    with pytest.raises(ConfigError, match=r"network\.init_sha256: has no meaning without network\.init"):
        config_module.load(None, ["network.init_sha256=ab"], {})


def test_prolonging_a_schedule_suggests_init(tiny_config, first, tmp_path):
    with pytest.raises(UsageError) as error:
        resume(first, ["training.epochs=8"])
    command = str(error.value).rpartition(": mlpcli ")[2].split()
    assert command == ["train", str(first / "config.yaml"), "--init", str(first), "--set", "training.epochs=5"]
    config = config_module.load(Path(command[1]), [f"network.init={command[3]}", command[5]])
    assert train(config, out=tmp_path / "on").epochs == 5


def test_suggested_warmup_is_within_the_epochs(tiny_config, tmp_path):
    run = train(tiny_config("training.warmup_epochs=2"), out=tmp_path / "first").path
    with pytest.raises(UsageError, match=r"--set training.epochs=1 --set training.warmup_epochs=1$"):
        resume(run, ["training.epochs=4"])


def test_sweep_starts_and_resumes_with_one_checkpoint(tiny_config, tiny_folder, first, tmp_path):
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"set: {{data.dataset: {tiny_folder}, network.hidden: [6]}}\ngrid: {{network.init: [null, {first}]}}\n"
    )
    plan = read(sweep, {})
    drawn, begun = tasks(tmp_path / "runs", plan)
    assert drawn.config.network.init is None
    assert begun.config.network.init_sha256 == checkpoints.read_with_hash(first / "checkpoints" / "best.npz")[1]
    train(begun.config, out=begun.path)
    assert [task.state for task in tasks(tmp_path / "runs", plan)] == ["new", "finished"]
    shutil.rmtree(first)
    train(tiny_config("seed=5"), out=first)
    with pytest.raises(UsageError, match=r"is a run of another config \(network\.init_sha256"):
        tasks(tmp_path / "runs", plan)
