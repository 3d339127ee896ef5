"""Train, resume and reproduce runs: the one place where data, training and the run directory are joined.

The commands and ``import mlpcli`` both call :func:`train`, :func:`resume` and :func:`reproduce`; what is shown on the
way is an :class:`Observer`'s business.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli import config as config_module
from mlpcli.config import Config, held_out_by
from mlpcli.datasets.catalogue import known_size
from mlpcli.datasets.collection import Collection
from mlpcli.datasets.download import Progress
from mlpcli.datasets.foreign import data_of_a_run
from mlpcli.datasets.load import Dataset, load_dataset, locate
from mlpcli.datasets.memory import ARRAYS, Arrays, Pair
from mlpcli.datasets.remarks import MIN_PER_CLASS, Remark, guessing
from mlpcli.datasets.remarks import remarks as data_remarks
from mlpcli.datasets.upright import swaps
from mlpcli.errors import ConfigError, DataError, DivergedError, RunError, UsageError, shown
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.control import MAX_PROCESSES, SINGLE, ProcessGroup
from mlpcli.parallel.forked import ForkedGroup
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.comparison import Difference, differences
from mlpcli.runs.directory import HasPath, RunDirectory
from mlpcli.runs.environment import PROCESSES, environment
from mlpcli.runs.initial import Origin, find_origin, find_teachers, pinned
from mlpcli.runs.layout import quoted, resume_command
from mlpcli.runs.summary import read_run
from mlpcli.state import EpochRecord, State, architecture_of
from mlpcli.training.connections import check_connections, connections
from mlpcli.training.diagnosis import MIN_STEPS, Diagnosis
from mlpcli.training.evaluate import Evaluator
from mlpcli.training.initial import copy_layers, draw_parameters
from mlpcli.training.targets import check_targets, targets_of
from mlpcli.training.teacher import Teacher, TeacherTargets, check_teacher
from mlpcli.training.trainer import Trainer

# Keys that may change when a run is resumed: the places of the data, of the checkpoint it began from and of its
# teachers, which are compared by their SHA-256, and whether the test images are evaluated in the end.
PLACES = ("data.dataset", "data.folder", "data.sources", "data.offline", "network.init", "training.teacher")
RESUMABLE = (*PLACES, "data.test")
EPOCHS = "training.epochs"
# Images on which a teacher is tried before training.
FIRST_IMAGES = 100
# Of the error of a guess: a network that makes as many has learned nothing.
NO_BETTER = 0.98
# The name of a run whose config has none.
NAME = "mnist"


class Observer:
    """The receiver of the events of a run; a subclass overrides what it shows, and this class shows nothing.

    ``progress`` shows downloads. Only rank 0 calls an observer. An exception that a method raises ends the training and
    is raised by :func:`train`; the run can be resumed from its last saved epoch.
    """

    progress: Progress | None = None

    def say(self, message: str) -> None:
        """Show a message."""

    def begin(self, run: Path, trainer: Trainer, dataset: Dataset) -> None:
        """Note that training begins or is resumed, in the directory ``run``.

        ``trainer.state`` is the state to begin with; the images of ``dataset`` are (N, D), uint8 from 0 to 255.
        """

    def remark(self, message: str) -> None:
        """Show a remark: on data or training that teach little. Not an error."""
        self.say(f"remark   {message}")

    def step(self, loss: float) -> None:
        """Note that a step is done: ``loss`` is the mean over its batch, without the penalty."""

    def epoch(self, record: EpochRecord, best: bool) -> None:
        """Note that an epoch is done and saved.

        The errors of ``record`` are fractions from 0 to 1. ``best`` is true if its (validation error, validation loss)
        is lower than that of every epoch before, compared in this order; false without validation images.
        """

    def end(self) -> None:
        """Note that training has ended, in whatever way: finished, interrupted or by an error."""


class _Bar(Observer):
    """Shows a bar of tqdm's, which in a notebook is a widget, with the errors of the last epoch; and what is said."""

    def __init__(self) -> None:
        from tqdm.auto import tqdm

        self._tqdm: Any = tqdm
        self._bar: Any = None

    def say(self, message: str) -> None:
        self._tqdm.write(message)

    def begin(self, run: Path, trainer: Trainer, dataset: Dataset) -> None:
        total = trainer.max_epochs * trainer.steps_per_epoch
        self._bar = self._tqdm(total=total, initial=trainer.state.step, unit="batch", desc=str(run))

    def step(self, loss: float) -> None:
        self._bar.update(1)

    def epoch(self, record: EpochRecord, best: bool) -> None:
        errors = {"training error": record.train_error, "validation error": record.validation_error}
        said = {name: f"{error:.2%}" for name, error in errors.items() if error is not None}
        self._bar.set_postfix({"epoch": record.epoch, **said})

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, its config, and its results, which are single numbers.

    Errors are fractions of the images, from 0 to 1, except ``test_errors``, a number of images among ``test_examples``.
    Losses are means over the images, without the penalty. ``best_epoch``, from 1, is the one with the lowest validation
    error, of equal ones with the lowest validation loss; ``validation_error`` and ``validation_loss`` are of this
    epoch. All three are None without validation images. The test results are those of the best checkpoint, or of the
    last without validation images; None if the test images were not evaluated. ``train_error`` and ``train_loss`` are
    running means over the last epoch. ``seconds`` is the time of training alone, of all ``epochs``. ``fallback_from``
    names the data set that could not be fetched, if the run was trained on the bundled sample instead.
    """

    path: Path
    config: Config
    dataset: str
    fallback_from: str | None
    epochs: int
    best_epoch: int | None
    validation_error: float | None
    validation_loss: float | None
    test_examples: int | None
    test_errors: int | None
    test_error: float | None
    test_loss: float | None
    train_error: float
    train_loss: float
    seconds: float


@dataclass(frozen=True)
class Reproduction:
    """A run that was trained again: its first ``epochs`` epochs, of ``max_epochs``.

    ``differences`` lists what is not equal: nothing if the run was reproduced bit for bit. ``environment`` lists what
    differs between here and where the run was trained, as (key, there, here).
    """

    run: Path
    epochs: int
    max_epochs: int
    differences: list[Difference]
    environment: list[tuple[str, str, str]]


def train(
    config: Config | str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    *,
    data: Pair | None = None,
    test: Pair | None = None,
    name: str | None = None,
    out: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    progress: bool = False,
    group: ProcessGroup = SINGLE,
) -> Run:
    """Train ``config`` in a new run directory: ``out``, or else runs/NAME-TIME.

    ``config`` is a ``Config``, a config file, the name of a shipped config, or None for the defaults; ``overrides``
    change all but a ``Config``, as ``--set`` does: "training.epochs=3". ``data`` and ``test`` are (X, y) to take
    instead of the data set that the config names. The images X are (N, h, w), (N, h, w, 1), (N, 1, h, w) or (N, h w),
    of numbers from 0 to 255, floats from 0 to 1, or bools. The labels y are N whole numbers or names, (N,) or (N, 1);
    one-hot (N, K); or several per image, (N, K) of 0 and 1. ``progress`` shows a bar, in a notebook as a widget; an
    ``observer`` shows what it likes. NAME is the config's, unless ``name`` is given. All processes of a ``group`` train
    one network: rank 0 by this, the others by :func:`run_worker`. Raises ``ConfigError``, ``UsageError``,
    ``DataError``, ``RunError`` or ``DivergedError``; the directory then keeps the last good checkpoint.
    """
    observer = _observer(observer, progress)
    config, own_name = _config_of(config, overrides)
    path = None
    if name is not None and (not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\0")):
        raise UsageError(f"name: {name!r:.60} is not the name of a folder in runs/; to choose the whole path give out=")
    if out is not None:
        if not isinstance(out, (str, os.PathLike)):
            raise UsageError(f"out: {out!r:.60} is not a path; give that of the new run directory")
        path = Path(out)
        directory.require_new(path)  # before data are fetched for nothing
    config, given = _with_arrays(pinned(config), data, test)
    config_module.to_file(config)  # before anything is trained that could not be read again
    config_module.check_size(config, *known_size(config.data.dataset), config_module.physical_memory())
    check_connections(config.network, config.data.dataset)
    dataset = load_dataset(config.data, config.seed, given=given, say=observer.say, progress=observer.progress)
    state, origin = _initial(config, dataset, observer)
    teachers, taught = _teachers(config, dataset, observer)
    trainer = Trainer(config, dataset, state, group, teachers)
    remarks = data_remarks(dataset, config.data.validation_order)
    manifest = {**_manifest(dataset, group), **origin, **taught}
    with directory.create(path, name or own_name, config, manifest) as run, _with_resume_hint(run, group):
        return _train(run, config, trainer, dataset, observer, remarks)


def _initial(config: Config, dataset: Dataset, observer: Observer) -> tuple[State | None, dict[str, Any]]:
    """Return the state to begin with, None where all is drawn; and what the manifest says of where it is from.

    Raises ``ConfigError`` for a network that is too large, or not for these labels: nothing is allocated before.
    """
    check_targets(config, dataset.classes, dataset.train.labels, dataset.name)
    inputs = dataset.train.images.shape[1]
    memory = config_module.physical_memory()
    config_module.check_size(config, inputs, dataset.classes, memory, len(dataset.train))
    found = initial_parameters(config, dataset.image_shape, dataset.class_names, dataset.name)
    if found is None:
        return None, {}
    theta, origin, drawn = found
    trained = origin.checkpoint.parameters
    observer.say(f"begins from {origin}" + "".join(f"; {_why_drawn(layer, trained, theta)}" for layer in drawn))
    if (there := origin.checkpoint.config.network.activation) != (here := config.network.activation):
        observer.say(f"its hidden units were trained as {there}, and are {here} now")
    return State(theta), {"init": {**origin.record, "drawn": [f"{array}{layer}" for layer in drawn for array in "Wb"]}}


def initial_parameters(
    config: Config, image_shape: tuple[int, int], class_names: Sequence[str], name: str
) -> tuple[Parameters, Origin, tuple[int, ...]] | None:
    """Return the parameters of ``network.init``, where they are from, and the layers drawn, from 1; None without it.

    ``name`` is that of the data. Raises ``RunError``, ``ConfigError`` or ``DataError`` if the checkpoint is missing or
    damaged, or does not fit.
    """
    origin = find_origin(config)
    if origin is None:
        return None
    if origin.checkpoint.image_shape != image_shape:
        sizes = [" x ".join(map(str, shape)) for shape in (origin.checkpoint.image_shape, image_shape)]
        raise DataError(
            f"network.init: {shown(origin.path)}: takes images of {sizes[0]} pixels, those of {name} are of {sizes[1]}"
        )
    trained = origin.checkpoint.parameters
    architecture = architecture_of(config, math.prod(image_shape), len(class_names))
    theta = draw_parameters(config, architecture, image_shape)
    drawn = copy_layers(trained, theta, same_classes=tuple(origin.checkpoint.names) == tuple(class_names))
    if len(drawn) == len(theta.W):
        there, here = ("-".join(map(str, sizes)) for sizes in (trained.sizes, theta.sizes))
        hidden = str(list(trained.sizes[1:-1])).replace(" ", "")
        raise ConfigError(
            f"network.init: {shown(origin.path)}: is a network {there}, of which no layer fits this one, {here}; to "
            f"begin from it: --set network.hidden={hidden}"
        )
    for layer, (W, M) in enumerate(zip(theta.W, connections(config.network, image_shape), strict=False), start=1):
        if layer not in drawn and W[M == 0].any():
            radii = origin.checkpoint.config.network.receptive_fields
            theirs = (
                None if radii is None else [int(r) if r == int(r) else r for r in radii[: len(config.network.hidden)]]
            )
            fitting = "null" if theirs is None else str(theirs).replace(" ", "")
            raise ConfigError(
                f"network.init: {shown(origin.path)}: layer {layer} has weights to units that network.receptive_fields "
                f"does not connect; to begin from it: --set network.receptive_fields={fitting}"
            )
    return theta, origin, drawn


def _why_drawn(layer: int, trained: Parameters, theta: Parameters) -> str:
    """Say why ``layer`` is not taken from the network that was ``trained``."""
    what, shape = f"layer {layer} (W{layer}, b{layer}) is drawn anew, as", theta.W[layer - 1].shape
    if layer > len(trained.W):
        return f"{what} there is none"
    if (before := trained.W[layer - 1].shape) != shape:
        return f"{what} W{layer} is {before[0]} x {before[1]} there and {shape[0]} x {shape[1]} here"
    return f"{what} the classes are others"


def load_teachers(
    config: Config, image_shape: tuple[int, int], class_names: tuple[str, ...], multi_label: bool
) -> tuple[Teacher, ...]:
    """Read the networks of ``training.teacher``, for images and labels of this kind.

    Raises ``RunError`` or ``ConfigError`` if one is missing, damaged, another than recorded, or does not fit.
    """
    return tuple(teacher for _, teacher in _load_teachers(config, image_shape, class_names, multi_label))


def check_teachers(teachers: Sequence[Teacher], images: NDArray[Any], preprocessing: str | None) -> None:
    """Raise ``RunError`` unless the outputs of ``teachers`` for the first of ``images`` (N, D) are finite numbers.

    The images are numbers from 0 to 255; ``preprocessing`` is what has been done to them.
    """
    images = images[:FIRST_IMAGES].astype(np.float64)
    for teacher in teachers:
        targets = np.empty((len(images), len(teacher.class_names)))
        with np.errstate(all="ignore"):
            TeacherTargets([teacher], len(images), preprocessing).write(images, targets)
        if not np.isfinite(targets).all():
            raise RunError(
                f"training.teacher: {teacher.name}: its outputs are not finite numbers: its parameters are too large"
            )


def _load_teachers(
    config: Config, image_shape: tuple[int, int], class_names: tuple[str, ...], multi_label: bool
) -> list[tuple[Origin, Teacher]]:
    found = []
    for origin in find_teachers(config):
        there = origin.checkpoint
        teacher = Teacher(
            name=shown(origin.path),
            config=there.config,
            theta=there.parameters,
            image_shape=there.image_shape,
            class_names=there.names,
            multi_label=there.multi_label,
        )
        check_teacher(teacher, config, image_shape, class_names, multi_label)
        found.append((origin, teacher))
    return found


def _teachers(config: Config, dataset: Dataset, observer: Observer) -> tuple[tuple[Teacher, ...], dict[str, Any]]:
    """Return the networks of ``training.teacher``, and what the manifest says of them; raises as they do."""
    if config.training.teacher is None:
        return (), {}
    train = dataset.train
    found = _load_teachers(config, dataset.image_shape, dataset.class_names, train.multi_label)
    check_teachers([teacher for _, teacher in found], train.images, config.data.preprocessing)
    for origin, teacher in found:
        observer.say(f"learns from {origin}")
        run = origin.path.parent.parent
        if origin.path.parent.name == directory.CHECKPOINTS and directory.is_in_use(run):
            observer.remark(
                f"{shown(run)} is still trained: once {shown(origin.path)} changes, a run that learned from it can be "
                "neither resumed nor reproduced; to prevent that, name a copy of this file"
            )
        same_images = origin.checkpoint.hashes == dataset.training_hashes
        if same_images and swaps(teacher.config.data) != swaps(config.data):
            raise ConfigError(
                f"training.teacher: {teacher.name}: was trained on these images in another orientation; "
                "give both the same data.transpose"
            )
        if dataset.validation is not None and same_images and held_out_by(teacher.config) != held_out_by(config):
            observer.remark(
                f"{teacher.name} held out other images for validation: it may have been trained on some of these, and "
                "the validation error is then too low"
            )
    return tuple(teacher for _, teacher in found), {"teacher": [origin.record for origin, _ in found]}


def run_worker(group: ProcessGroup) -> None:
    """Train with rank 0 of ``group``, for as long as it does; only rank 0 has files, a terminal and a result."""
    job = group.wait_for_job()
    if job is not None:
        config, dataset, state, teachers = job
        Trainer(config, dataset, state, group, teachers).run_worker()


def resume(
    path: HasPath | str | os.PathLike[str],
    overrides: Iterable[str] = (),
    *,
    data: Pair | None = None,
    test: Pair | None = None,
    observer: Observer | None = None,
    progress: bool = False,
    group: ProcessGroup = SINGLE,
) -> Run:
    """Resume the run ``path`` from its last checkpoint, or from the checkpoint of a run that ``path`` names.

    The end is that of a run never interrupted, bit for bit. ``overrides`` may change what can't change the past:
    ``training.epochs`` where the schedule leaves the learning rates of the epochs done as they were, and where the data
    are, and ``data.test``, also of a finished run. ``data`` and ``test`` are the arrays of a run that was trained on
    arrays. Raises ``UsageError`` for any other override, or for too many or too few arrays, ``DataError`` for other
    arrays or files than those the run began with, and as :func:`train` does.
    """
    observer = _observer(observer, progress)
    where, at = directory.locate(directory.path_of(path))
    with directory.reopen(where) as run:
        checkpoint = _checkpoint_to_resume(run, at)
        config = directory.read_config(where, overrides, os.environ)
        if test is not None and not config.data.test:
            raise UsageError("test: the run has data.test: false; leave test out, or pass the override data.test=true")
        if checkpoint is not None:
            _check_resume_config(checkpoint, config, where)
            as_long = config.training.epochs == checkpoint.config.training.epochs
            if run.manifest.get("state") == "finished" and at is None and as_long:
                result = _result(run, config, checkpoint.state)
                moved = data is not None or config.data.dataset != checkpoint.config.data.dataset
                unmeasured = result.test_error is None and config.data.test
                if unmeasured and (moved or not checkpoint.config.data.test):
                    observer.say(f"{shown(where)}: is finished; only its test error is measured")
                    given = _arrays_to_resume(config, data, test)
                    dataset = _same_data(_with_its_data(config, where), checkpoint, run.manifest, observer, given)
                    if dataset.has_test:
                        _evaluate_on_test(run, config, dataset, group)
                    return _result(run, config, checkpoint.state)
                observer.say(f"{shown(where)}: is finished; there is nothing to resume")
                return result
            if config.network.init != checkpoint.config.network.init:
                find_origin(config)  # it is not read again, but what is recorded must be true
        else:
            config = pinned(config)
        given = _arrays_to_resume(config, data, test)
        dataset = _same_data(_with_its_data(config, where), checkpoint, run.manifest, observer, given)
        state, origin = _initial(config, dataset, observer) if checkpoint is None else (checkpoint.state, {})
        teachers, taught = _teachers(config, dataset, observer)
        trainer = Trainer(config, dataset, state, group, teachers)
        if trainer.state.step != trainer.state.epoch * trainer.steps_per_epoch:
            raise RunError(
                f"{where}: its checkpoint's step {trainer.state.step} is not the end of epoch {trainer.state.epoch}, "
                f"at {trainer.steps_per_epoch} mini-batches an epoch"
            )
        remarks = data_remarks(dataset, config.data.validation_order)
        here = environment(group.label)
        changed = [
            key
            for key, value in here.items()
            if key != PROCESSES and run.manifest.get("environment", here).get(key) != value
        ]
        if changed:
            observer.say(f"not the environment the run began in ({', '.join(changed)}): the numbers may differ")
        before = _processes(run.manifest)
        if before not in ([], [group.label]):
            counts = " and then ".join(map(str, before))
            observer.say(f"trained by {counts} processes so far, now by {group.label}: the numbers may differ")
        resumed = [*run.manifest.get("resumed", []), {"epoch": trainer.state.epoch, "environment": here}]
        manifest = {**_manifest(dataset, group), **origin, **taught, **run.manifest, "resumed": resumed}
        # Those of test arrays, if the run was begun without them.
        manifest["data"] = {**manifest["data"], "hashes": {**dataset.hashes, **manifest["data"]["hashes"]}}
        run.rewind_to(config, checkpoint and replace(checkpoint, config=config), manifest)
        with _with_resume_hint(run, group):
            return _train(run, config, trainer, dataset, observer, remarks)


def reproduce(
    path: Path, overrides: Iterable[str] = (), *, keep: Path | None = None, observer: Observer | None = None
) -> Reproduction:
    """Train the run ``path`` again in a scratch directory, or in ``keep``, and compare the results.

    As many epochs as its last checkpoint has are trained, and the test set is not looked at. ``overrides`` may say
    where the data are. Raises ``RunError`` when no epoch was completed, ``DataError`` when the data are not those it
    was trained on.
    """
    observer = observer or Observer()
    where, at = directory.locate(path)
    if at is not None:
        raise RunError(f"{path}: is a checkpoint; name its run: {where}")
    if keep is not None:
        directory.require_new(keep, "--keep")
    if not read_run(where).metrics.epochs:  # checks the files that the comparison does not read, too
        raise RunError(f"{shown(where)}: no epoch was completed, so there is nothing to compare")
    checkpoint = checkpoints.read(where / directory.CHECKPOINTS / f"last{checkpoints.SUFFIX}")
    manifest = directory.read_manifest(where)
    config = directory.read_config(where, overrides, os.environ)
    _check_resume_config(checkpoint, config, where)
    config = replace(config, data=replace(config.data, test=False))
    dataset = _same_data(_with_its_data(config, where), checkpoint, manifest, observer)
    name = where.resolve().name or "run"  # of '..' the folder's
    with ExitStack() as stack:
        group = stack.enter_context(_group_of(manifest))
        state, origin = _initial(config, dataset, observer)
        teachers, taught = _teachers(config, dataset, observer)
        trainer = Trainer(config, dataset, state, group, teachers)
        scratch = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlpcli-"))) / name
        with directory.create(scratch, name, config, {**_manifest(dataset, group), **origin, **taught}) as run:
            try:
                _train(run, config, trainer, dataset, observer, epochs=checkpoint.epoch)
            except DivergedError as error:
                found = [Difference("training", f"came to epoch {checkpoint.epoch}", str(error))]
            else:
                found = differences(where, scratch, checkpoint.epoch)
    return Reproduction(where, checkpoint.epoch, config.training.epochs, found, _changes(manifest, group))


def _observer(observer: Observer | None, progress: bool) -> Observer:
    if observer is None:
        return _Bar() if progress else Observer()
    if not isinstance(observer, Observer):
        raise UsageError(f"{observer!r:.60} is no observer; give an instance of a class derived from mlpcli.Observer")
    if progress:
        raise UsageError("progress: shows a bar, and an observer shows what it likes; give one of them")
    return observer


def _with_arrays(config: Config, data: Pair | None, test: Pair | None) -> tuple[Config, Collection | None]:
    """Return ``config``, its data set the arrays ``data`` and ``test`` where they are given; and those."""
    if data is None:
        if test is not None:
            raise UsageError("test: goes with data=(X, y), the images to train on, which are not given")
        return config, None
    section = replace(config.data, dataset=ARRAYS, fallback=None, test=config.data.test and test is not None)
    return replace(config, data=section), Arrays(data, test, config.data.image_shape)


def _arrays_to_resume(config: Config, data: Pair | None, test: Pair | None) -> Collection | None:
    """Return the arrays to resume a run of ``config`` with, if any. Raises ``UsageError`` if ``test`` is missing."""
    if data is not None and test is None and config.data.test:
        raise UsageError("test: the run has data.test: true; pass test=(X, y) too, or the override data.test=false")
    return _with_arrays(config, data, test)[1]


def _config_of(config: Config | str | os.PathLike[str] | None, overrides: Iterable[str]) -> tuple[Config, str]:
    """Return the config and its name."""
    overrides = config_module.listed(overrides)
    if isinstance(config, Config):
        if overrides:
            raise UsageError("a Config takes no overrides: change it with dataclasses.replace, or name a config")
        return config, NAME
    if config is None:
        return config_module.load(None, overrides), NAME
    path = config_module.find(config)
    return config_module.load(path, overrides), path.stem


@contextmanager
def _with_resume_hint(run: RunDirectory, group: ProcessGroup) -> Iterator[None]:
    try:
        yield
    except RunError as error:
        if not run.is_in_place():
            raise  # what there was to go on from is gone
        how = resume_command(run.path, group.command)
        raise RunError(f"{error}; the last good state is kept; resume with: {how}") from error


def _changes(manifest: dict[str, Any], group: ProcessGroup) -> list[tuple[str, str, str]]:
    """Return how the environments a run was trained in differ from this one."""
    environments = [manifest["environment"], *(resumed["environment"] for resumed in manifest["resumed"])]
    changes = []
    for key, value in {**environment(), PROCESSES: group.label}.items():
        recorded = list(dict.fromkeys(str(each.get(key, 1 if key == PROCESSES else None)) for each in environments))
        if recorded != [str(value)]:
            changes.append((key, ", then ".join(recorded), str(value)))
    return changes


def _train(
    run: RunDirectory,
    config: Config,
    trainer: Trainer,
    dataset: Dataset,
    observer: Observer,
    remarks: Iterable[Remark] | None = None,
    epochs: int | None = None,
) -> Run:
    """Train to the end, or until ``epochs`` more epochs are done; ``remarks`` are None for a run that is reproduced."""
    state = trainer.state
    for warning in run.warnings():
        observer.say(warning)
    trainer.group.start_workers(trainer)
    observer.begin(run.path, trainer, dataset)
    if remarks is not None:
        on_rate = config_module.remark_on_rate(config.training)
        for message in (*(remark.message for remark in remarks), *([on_rate] if on_rate else [])):
            observer.remark(message)
    diagnosis = Diagnosis(config, guessing(dataset.train.labels, dataset.class_names)[1])

    steps = run.step_writer(trainer.steps_per_epoch, len(dataset.train), state.step)

    def on_step(loss: float) -> None:
        steps.add(loss)
        observer.step(loss)
        if not state.epoch:
            diagnosis.losses.append(loss)

    record = None
    try:
        try:
            for record in islice(trainer.epochs(on_step), epochs):
                run.save(record, _checkpoint(config, dataset, trainer))
                observer.epoch(record, best=state.best_epoch == state.epoch)
                for sign in diagnosis.epoch(record, state.theta):
                    observer.remark(f"epoch {record.epoch}: {sign}")
        except RuntimeError as error:
            # What a generator, as trainer.epochs, makes of a StopIteration of the observer's.
            if isinstance(error.__cause__, StopIteration):
                raise error.__cause__ from None
            raise
        finally:
            steps.close()
            observer.end()
        if record is not None and trainer.finished and state.step >= MIN_STEPS:
            _remark_on_guessing(record, state, dataset, observer)
        if dataset.has_test:
            _evaluate_on_test(run, config, dataset, trainer.group)
    except DivergedError as error:
        run.write_manifest(state="diverged")
        kept = f"the last good checkpoint, of epoch {state.epoch}, is in {run.path}"
        raise DivergedError(
            f"{error}; {kept if run.checkpoint('last').exists() else 'no epoch was completed'}"
        ) from None
    if trainer.finished:
        run.write_manifest(state="finished")
    return _result(run, config, state)


def _remark_on_guessing(record: EpochRecord, state: State, dataset: Dataset, observer: Observer) -> None:
    """Say so where a trained network has not been better than one answer for all images."""
    kind, split, error = "training", dataset.train, record.train_error
    enough = MIN_PER_CLASS * dataset.classes
    if dataset.validation is not None and state.best is not None and len(dataset.validation) >= enough:
        # An average may still be catching up with what it is the average of.
        raw = record.raw_validation_error
        error = state.best[0] if raw is None else min(raw, state.best[0])
        kind, split = "validation", dataset.validation
    answer, guessed = guessing(split.labels, dataset.class_names)
    if len(split) >= enough and error >= NO_BETTER * guessed > 0:
        observer.remark(
            f"the result is no better than guessing: {kind} error {error:.2%}, and {guessed:.2%} by always answering "
            f"{shown(answer)}; look at the images with mlpcli data show, or try another training.learning_rate"
        )


def _evaluate_on_test(run: RunDirectory, config: Config, dataset: Dataset, group: ProcessGroup) -> None:
    """Evaluate the run's model, as it is on disk, on the test images: the only time that training does."""
    path = directory.find_checkpoint(run.path)
    checkpoint = checkpoints.read(path)
    try:
        images = dataset.test()
    except DataError as error:
        without = f"{resume_command(run.path, group.command)} --set data.test=false"
        raise DataError(f"{error}; the run is kept: to end it without a test error: {without}") from error
    train = dataset.train
    architecture = architecture_of(config, train.images.shape[1], dataset.classes)
    targets = targets_of(config, dataset.classes, train.multi_label)
    evaluator = Evaluator(architecture, images, targets, config.network.dtype)
    with np.errstate(all="ignore"):
        loss, errors = evaluator.loss_and_errors(checkpoint.parameters)
    if not math.isfinite(loss):
        raise DivergedError(f"the test loss is {loss}: on the test images the network leaves the finite numbers")
    run.write_manifest(data={**run.manifest["data"], "hashes": dataset.hashes})
    run.write_test(
        {
            "checkpoint": path.stem,
            "examples": evaluator.examples,
            "errors": errors,
            "error": errors / evaluator.examples,
            "loss": loss,
        }
    )


def _result(run: RunDirectory, config: Config, state: State) -> Run:
    metrics = directory.read_metrics(run.path, state.epoch)
    last = metrics.last or {}
    test = directory.read_test(run.path) or {}
    data = run.manifest["data"]
    return Run(
        path=run.path,
        config=config,
        dataset=data["dataset"],
        fallback_from=data["fallback_from"],
        epochs=state.epoch,
        best_epoch=state.best_epoch if state.best else None,
        validation_error=state.best[0] if state.best else None,
        validation_loss=state.best[1] if state.best else None,
        test_examples=test.get("examples"),
        test_errors=test.get("errors"),
        test_error=test.get("error"),
        test_loss=test.get("loss"),
        train_error=last["train_error"],
        train_loss=last["train_loss"],
        seconds=metrics.seconds,
    )


def _processes(manifest: dict[str, Any]) -> list[int | str]:
    """Return the numbers of processes that have trained a run, in turn."""
    environments = [manifest.get("environment"), *(resumed["environment"] for resumed in manifest.get("resumed", []))]
    return [count for count, _ in groupby(each.get(PROCESSES, 1) for each in environments if each is not None)]


def _group_of(manifest: dict[str, Any]) -> ProcessGroup:
    """Return a process group like the one that trained a run, if one can be made here."""
    processes = _processes(manifest)
    if len(processes) == 1 and processes[0] in range(2, MAX_PROCESSES + 1) and hasattr(os, "fork"):
        return ForkedGroup(int(processes[0]))
    return SINGLE


def _manifest(dataset: Dataset, group: ProcessGroup = SINGLE) -> dict[str, Any]:
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(group.label),
        "data": {"dataset": dataset.name, "fallback_from": dataset.fallback_from, "hashes": dataset.hashes},
        "resumed": [],
    }


def _checkpoint(config: Config, dataset: Dataset, trainer: Trainer) -> Checkpoint:
    return Checkpoint(
        config=config,
        dataset=dataset.name,
        hashes=dataset.training_hashes,
        image_shape=dataset.image_shape,
        classes=dataset.classes,
        state=trainer.state,
        class_names=dataset.class_names,
        labels=dataset.labels,
        multi_label=dataset.train.multi_label,
    )


def _checkpoint_to_resume(run: RunDirectory, at: Path | None) -> Checkpoint | None:
    """Return the checkpoint to resume from; None if no epoch was completed."""
    if at is not None:
        return checkpoints.read(at)
    last, previous = run.checkpoint("last"), run.checkpoint("previous")
    if not directory.is_there(last) and not directory.is_there(previous):
        return None
    try:
        return checkpoints.read(last)
    except RunError as error:
        hint = f"; go on from the one before it: {resume_command(previous)}"
        raise RunError(f"{error}{hint if previous.exists() else ''}") from error


def _check_resume_config(checkpoint: Checkpoint, config: Config, where: Path) -> None:
    """Raise ``UsageError`` with the difference if ``config`` would not have come to ``checkpoint``."""
    before, after = config_module.flatten(checkpoint.config), config_module.flatten(config)
    for key in ("network.init", "training.teacher"):
        if before[key] is None and after[key] is not None:
            raise UsageError(
                f"{where}: {key}: is null, so there is no checkpoint whose place could be named; leave it out"
            )
    for key in (key for key in before if before[key] != after[key] and key not in RESUMABLE):
        difference = f"{where}: {key}: {before[key]} -> {after[key]}"
        if key != EPOCHS:
            raise UsageError(f"{difference}: a run goes on, and is repeated, with the config it began with")
        if config.training.epochs < checkpoint.epoch:
            raise UsageError(f"{difference}: {checkpoint.epoch} epochs are done already")
        if config.augmentation is not None and config.augmentation.final_epochs:
            raise UsageError(
                f"{difference}: would change the strength of the distortions in the epochs done already, as "
                f"augmentation.final_epochs are counted from the last; {_train_on(checkpoint, config, where)}"
            )
        if config.training.schedule != "constant":
            raise UsageError(
                f"{difference}: would change the learning rates of the epochs done already, as training.schedule: "
                f"{config.training.schedule} depends on the number of epochs; only with constant can it be changed; "
                + _train_on(checkpoint, config, where)
            )


def _train_on(checkpoint: Checkpoint, config: Config, where: Path) -> str:
    """Return the command that trains the weights of the run ``where`` for the epochs that are not done yet."""
    epochs = max(1, config.training.epochs - checkpoint.epoch)
    settings = [f"training.epochs={epochs}"]
    if config.training.warmup_epochs > epochs:
        settings.append(f"training.warmup_epochs={epochs}")
    run, file = quoted(where), quoted(where / directory.CONFIG)
    command = " ".join(["mlpcli train", file, "--init", run, *(f"--set {setting}" for setting in settings)])
    return f"a new run that begins from its weights can be trained for {epochs}: {command}"


def _with_its_data(config: Config, where: Path) -> Config:
    """Return ``config`` for the run ``where``, with its data only from allowed places or from the command line."""
    return replace(config, data=data_of_a_run(directory.read_config(where).data, config.data))


def _same_data(
    config: Config,
    checkpoint: Checkpoint | None,
    manifest: dict[str, Any],
    observer: Observer,
    given: Collection | None = None,
) -> Dataset:
    """Return the data the run began with, its fallback included; raise ``DataError`` if they have changed."""
    data = config.data
    began_with = manifest.get("data", {"fallback_from": None})
    if missing := began_with["fallback_from"]:
        if data.dataset != missing:
            raise UsageError(
                f"data.dataset: {shown(data.dataset)}: the run was trained on {began_with['dataset']}, as {missing} "
                "was not available, and goes on with it: leave --data out"
            )
        data = replace(data, dataset=began_with["dataset"], fallback=None)
    if given is None and data.dataset != ARRAYS:
        try:
            locate(data.dataset, data.folder)
        except DataError:
            raise DataError(
                f"{shown(data.dataset)}: the run's data are not there any more; name their place with --data"
            ) from None
    dataset = load_dataset(data, config.seed, given=given, say=observer.say, progress=observer.progress)
    # Before the first checkpoint there is the manifest, unless the process died before it wrote one.
    began = began_with.get("hashes", dataset.hashes)
    known = checkpoint.hashes if checkpoint is not None else began
    for name, digest in dataset.hashes.items():
        training = name in dataset.training_hashes
        # Test files are hashed when they are read, test arrays before training; a run may have begun without them.
        if (known.get(name) if training else began.get(name, digest)) == digest:
            continue
        if given is not None:
            argument = "data" if training else "test"
            raise DataError(
                f"{argument}: X or y is not what the run began with; its SHA-256 differs; pass the same arrays"
            )
        raise DataError(f"{data.dataset}: {name} is not the file the run was trained on; its SHA-256 differs")
    return replace(dataset, fallback_from=began_with["fallback_from"] or dataset.fallback_from)
