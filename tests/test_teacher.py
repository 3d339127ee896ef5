"""Runs that learn from trained networks: what is refused, recorded, and repeated byte for byte."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlpcli.commands import _run
from mlpcli.config import Config, to_yaml
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES, ROLES
from mlpcli.errors import ConfigError, RunError, UsageError
from mlpcli.experiment import reproduce, resume, train
from mlpcli.parallel.forked import ForkedGroup
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.comparison import differences
from mlpcli.sweep.execute import tasks
from mlpcli.sweep.plan import read
from tests.listener import Listener
from tests.processes import assert_metrics_equal_except_rounding
from tests.run_outcome import outcome

Make = Callable[..., Config]


@pytest.fixture
def teachers(tiny_config: Make, tmp_path: Path) -> list[Path]:
    """Train two: with another dtype and number of units, and on deskewed images."""
    other = tiny_config("network.dtype=float64", "network.hidden=[9]", "data.preprocessing=deskew", "seed=5")
    return [train(config, out=tmp_path / name).path for name, config in (("first", tiny_config()), ("other", other))]


def taught(teachers: list[Path], config: Config) -> Config:
    return replace(config, training=replace(config.training, teacher=tuple(map(str, teachers))))


def hash_of(run: Path) -> str:
    return checkpoints.read_with_hash(directory.find_checkpoint(run))[1]


def test_teachers_are_recorded_by_their_hashes(tiny_config, teachers, tmp_path):
    listener = Listener()
    run = train(taught(teachers, tiny_config()), out=tmp_path / "student", observer=listener)
    files = tuple(str(teacher / "checkpoints" / "best.npz") for teacher in teachers)
    hashes = tuple(map(hash_of, teachers))
    assert (run.config.training.teacher, run.config.training.teacher_sha256) == (files, hashes)
    assert directory.read_config(run.path) == run.config
    recorded = directory.read_manifest(run.path)["teacher"]
    assert [each["sha256"] for each in recorded] == list(hashes)
    assert all(set(each) == {"sha256", "dataset", "epoch"} for each in recorded)
    assert [line.partition(" ")[0] for line in listener.messages].count("learns") == 2


def test_student_differs_from_one_of_the_labels(tiny_config, teachers, tmp_path):
    student, other = (
        train(config, out=tmp_path / name).path
        for name, config in (("student", taught(teachers, tiny_config())), ("alone", tiny_config()))
    )
    assert outcome(student) != outcome(other)
    assert "teacher" not in directory.read_manifest(other) or directory.read_manifest(other)["teacher"] is None


@pytest.mark.parametrize("stop_after", [0, 1])
def test_resume_is_bit_identical(tiny_config, teachers, tmp_path, stop_after):
    config = taught(teachers, tiny_config("augmentation.rotation=10", "training.input_dropout=0.2"))
    whole = train(config, out=tmp_path / "whole").path
    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "part", observer=Listener(stop_after))
    resume(tmp_path / "part")
    assert outcome(tmp_path / "part") == outcome(whole)
    assert directory.read_manifest(tmp_path / "part")["teacher"] == directory.read_manifest(whole)["teacher"]


@pytest.mark.parametrize("stop_after", [0, 1])
def test_resume_refuses_a_changed_teacher(tiny_config, teachers, tmp_path, stop_after):
    with pytest.raises(KeyboardInterrupt):
        train(taught(teachers, tiny_config()), out=tmp_path / "part", observer=Listener(stop_after))
    shutil.rmtree(teachers[1])
    with pytest.raises(RunError, match=r"^training.teacher: .*no such run or checkpoint"):
        resume(tmp_path / "part")
    train(tiny_config("seed=9"), out=teachers[1])
    with pytest.raises(RunError, match=r"is not the checkpoint named by training.teacher_sha256") as error:
        resume(tmp_path / "part")
    assert "\n" not in str(error.value)


def test_resume_and_reproduce_find_moved_teachers(tiny_config, teachers, tmp_path):
    config = taught(teachers, tiny_config())
    whole = train(config, out=tmp_path / "whole").path
    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "part", observer=Listener(1))
    assert not reproduce(whole).differences
    moved = [teacher.rename(tmp_path / f"moved-{teacher.name}") for teacher in teachers]
    override = f"training.teacher={json.dumps(list(map(str, moved)))}"
    assert not reproduce(whole, [override]).differences
    resume(tmp_path / "part", [override])
    assert not differences(tmp_path / "part", whole, 3)  # of metrics and arrays: their configs name other places


@pytest.mark.parametrize("key", ["network.init", "training.teacher"])
def test_checkpoint_is_not_added_to_a_run_without_one(tiny_config, teachers, tmp_path, key):
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), out=tmp_path / "part", observer=Listener(1))
    value = json.dumps(str(teachers[0]) if key == "network.init" else [str(teachers[0])])
    before = outcome(tmp_path / "part")
    for again in (resume, reproduce):
        with pytest.raises(UsageError, match=f"part: {key}: is null, so there is no checkpoint") as error:
            again(tmp_path / "part", [f"{key}={value}"])
        assert "\n" not in str(error.value)
    assert outcome(tmp_path / "part") == before


def test_place_of_the_initial_weights_is_checked_when_resumed(tiny_config, teachers, tmp_path):
    config = tiny_config()
    config = replace(config, network=replace(config.network, init=str(teachers[0])))
    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "part", observer=Listener(1))
    moved = teachers[0].rename(tmp_path / "moved")
    for wrong, said in ((teachers[1], "is not the checkpoint named by"), (tmp_path / "nowhere", "no such run")):
        with pytest.raises(RunError, match=rf"^network.init: .*{said}"):
            resume(tmp_path / "part", [f"network.init={json.dumps(str(wrong))}"])
    resume(tmp_path / "part", [f"network.init={json.dumps(str(moved))}"])


@pytest.mark.parametrize("key", ["network.init", "training.teacher"])
def test_checkpoint_named_before_the_first_epoch_is_recorded(tiny_config, teachers, tmp_path, key):
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), out=tmp_path / "part", observer=Listener(0))
    value = json.dumps(str(teachers[0]) if key == "network.init" else [str(teachers[0])])
    run = resume(tmp_path / "part", [f"{key}={value}"])
    section, _, name = key.partition(".")
    recorded = getattr(getattr(run.config, section), f"{name}_sha256")
    assert recorded == (hash_of(teachers[0]) if key == "network.init" else (hash_of(teachers[0]),))
    assert directory.read_config(run.path) == run.config
    assert not reproduce(run.path).differences


def test_message_on_a_moved_teacher_says_how_to_name_it(tiny_config, teachers, tmp_path):
    run = train(taught(teachers[:1], tiny_config()), out=tmp_path / "student").path
    teachers[0].rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"no such run .*; if it was moved, name its place with training.teacher, or "):
        reproduce(run)


def test_finished_run_is_not_resumed_with_moved_teachers(tiny_config, teachers, tmp_path):
    run = train(taught(teachers, tiny_config()), out=tmp_path / "student").path
    for teacher in teachers:
        teacher.rename(tmp_path / f"moved-{teacher.name}")
    listener = Listener()
    resume(run, ["training.teacher=[a, b]"], observer=listener)
    assert any("there is nothing to resume" in line for line in listener.messages)


def test_result_does_not_depend_on_number_of_processes(tiny_config, teachers, tmp_path):
    # The teacher of float64: one of float32 may round differently in each process, as a product of fewer rows.
    config = taught(teachers[1:], tiny_config("network.dtype=float64", "augmentation.rotation=10"))
    one = train(config, out=tmp_path / "one").path
    with ForkedGroup(3) as group:
        three = train(config, out=tmp_path / "three", group=group).path
    assert_metrics_equal_except_rounding(three, one)
    states = [checkpoints.read(run / "checkpoints" / "last.npz").state.theta.to_c_order() for run in (one, three)]
    np.testing.assert_allclose(states[1], states[0], rtol=1e-9, atol=1e-12)
    assert not reproduce(three).differences


def test_missing_or_damaged_teacher_is_refused_before_data(tiny_config, teachers, tmp_path):
    (tmp_path / "text").write_text("no checkpoint")
    file = teachers[0] / "checkpoints" / "best.npz"
    file.write_bytes(file.read_bytes()[:-100])
    config = tiny_config('data.dataset="nowhere"')
    for name in ("nowhere", "text", ".", "first"):
        with pytest.raises(RunError, match=r"^training.teacher: ") as error:
            train(taught([tmp_path / name], config), out=tmp_path / "student")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "student").exists()


def test_teacher_of_other_classes_is_refused(tiny_config, teachers, tmp_path):
    with pytest.raises(ConfigError, match=r"^training.teacher: .* predicts other classes"):
        train(taught(teachers, tiny_config("data.class_names=[a, b, c]")), out=tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_teacher_of_another_orientation_is_refused(tiny_config, tiny_folder, tiny_images, tmp_path):
    for role, array in zip(ROLES, tiny_images, strict=True):
        square = array[:, :4, :4] if array.ndim == 3 else array
        (tiny_folder / FILE_NAMES[role]).write_bytes(idx.encode(square))
    teachers = [train(tiny_config(), out=tmp_path / "teacher").path]
    with pytest.raises(ConfigError, match=r"^training.teacher: .*in another orientation; .*data.transpose$"):
        train(taught(teachers, tiny_config("data.transpose=true")), out=tmp_path / "student")
    assert not (tmp_path / "student").exists()
    train(taught(teachers, tiny_config("data.transpose=false")), out=tmp_path / "student")


def test_teacher_with_infinite_outputs_is_refused(tiny_config, teachers, tmp_path, capsys):
    file = teachers[0] / "checkpoints" / "best.npz"
    checkpoint = checkpoints.read(file)
    checkpoint.state.theta.W[-1][...] = 3e38
    checkpoints.write(file, checkpoint)
    with pytest.raises(RunError, match=r"^training.teacher: .*its outputs are not finite numbers"):
        train(taught(teachers, tiny_config()), out=tmp_path / "student")
    assert not (tmp_path / "student").exists()
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(taught(teachers, tiny_config())))
    assert _run(["gradcheck", str(config), "--processes", "1"]) == 4
    said = capsys.readouterr()
    assert re.fullmatch(r"mlpcli: training.teacher: .*: its outputs are not finite numbers: .*\n", said.err)
    assert said.out == ""


@pytest.mark.parametrize(("override", "told"), [("seed=0", False), ("data.validation=0.3", True)])
def test_teacher_that_saw_validation_images_is_a_remark(tiny_config, teachers, tmp_path, override, told):
    listener = Listener()
    train(taught(teachers[:1], tiny_config(override)), out=tmp_path / "student", observer=listener)
    assert any("held out other images for validation" in line for line in listener.messages) == told


def test_teacher_that_is_still_trained_is_a_remark(tiny_config, teachers, tmp_path):
    listener = Listener()
    with directory.reopen(teachers[0]):
        train(taught(teachers, tiny_config()), out=tmp_path / "student", observer=listener)
    (remark,) = (line for line in listener.messages if "is still trained" in line)
    assert remark.startswith(
        f"remark   {teachers[0]} is still trained: once {teachers[0] / 'checkpoints' / 'best.npz'} "
    )
    listener = Listener()
    train(taught(teachers, tiny_config()), out=tmp_path / "second", observer=listener)
    assert not any("is still trained" in line for line in listener.messages)


def test_sweep_starts_and_resumes_with_one_teacher(tiny_config, tiny_folder, teachers, tmp_path):
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"set: {{data.dataset: {tiny_folder}, network.hidden: [6]}}\n"
        f"grid: {{training.teacher: [null, [{teachers[0]}]], seed: [0, 1]}}\n"
    )
    plan = read(sweep, {})
    found = [task.config.training.teacher_sha256 for task in tasks(tmp_path / "runs", plan)]
    assert found == [None, None, (hash_of(teachers[0]),), (hash_of(teachers[0]),)]
