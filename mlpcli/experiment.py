"""Train, resume and reproduce runs: the one place where data, training and the run directory are joined.

The commands and ``import mlpcli`` both call :func:`train`, :func:`resume` and :func:`reproduce`; what is shown on the
way is an :class:`Observer`'s business.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.datasets.catalogue import known_size
from mlpcli.datasets.download import Progress
from mlpcli.datasets.foreign import data_of_a_run
from mlpcli.datasets.load import Dataset, load_dataset
from mlpcli.datasets.remarks import LEAST_A_CLASS, Remark, guessing
from mlpcli.datasets.remarks import remarks as data_remarks
from mlpcli.errors import DataError, DivergedError, RunError, UsageError, shown
from mlpcli.parallel.control import MAX_PROCESSES, SINGLE, ProcessGroup
from mlpcli.parallel.forked import ForkedGroup
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.comparison import Difference, differences
from mlpcli.runs.directory import RunDirectory
from mlpcli.runs.environment import PROCESSES, environment
from mlpcli.runs.layout import resume_command
from mlpcli.state import EpochRecord, State
from mlpcli.training.diagnosis import LEAST_STEPS, Diagnosis
from mlpcli.training.evaluate import Evaluator
from mlpcli.training.trainer import Trainer

# What may differ between a run and its resumption: where the data are, as their SHA-256 tells that they are the same,
# and whether the test images are evaluated in the end.
RESUMABLE = ("data.dataset", "data.folder", "data.sources", "data.offline", "data.test")
EPOCHS = "training.epochs"
# Of the error of a guess: a network that makes as many has learned nothing.
NO_BETTER = 0.98
# The name of a run whose config has none.
NAME = "mnist"


class Observer:
    """Receives the events of a run, to show them; this one shows nothing."""

    progress: Progress | None = None

    def say(self, message: str) -> None:
        """Show a message."""

    def begin(self, run: Path, trainer: Trainer, dataset: Dataset) -> None:
        """Training begins, or is resumed."""

    def remark(self, message: str) -> None:
        """Show a remark: on data or training that teach little. Not an error."""
        self.say(f"remark   {message}")

    def step(self, loss: float) -> None:
        """A step is done."""

    def epoch(self, record: EpochRecord, best: bool) -> None:
        """An epoch is done and saved; ``best`` if no epoch before it had a lower validation error."""

    def end(self) -> None:
        """Training has ended, in whatever way."""


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, its config, and its results.

    Errors are fractions of the images. ``best_epoch`` is that of the lowest validation error, None without validation
    images; ``test_error`` and ``test_loss`` are those of the best checkpoint, or of the last without validation images,
    None with ``data.test: false``. ``seconds`` is the time of training alone. ``fallback_from`` names the data set that
    could not be fetched, if the run was trained on the bundled sample instead.
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
    """The result of training a run again: its first ``epochs`` epochs, of ``max_epochs``.

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
    name: str | None = None,
    out: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    group: ProcessGroup = SINGLE,
) -> Run:
    """Train ``config`` in a new run directory: ``out``, or else runs/NAME-TIME.

    ``config`` is a ``Config``, a config file, the name of a shipped config, or None for the defaults; ``overrides``
    change all but a ``Config``, as ``--set`` does: "training.epochs=3". NAME is the config's, unless ``name`` is
    given. All processes of a ``group`` train one network: rank 0 by this, the others by :func:`run_worker`. Raises
    ``ConfigError``, ``UsageError``, ``DataError``, ``RunError`` or ``DivergedError``; the directory then keeps the last
    good checkpoint.
    """
    observer = observer or Observer()
    config, own_name = _config_of(config, overrides)
    path = None if out is None else Path(out)
    if path is not None:
        directory.require_new(path)  # before data are fetched for nothing
    # This too, as far as the size of its images is known.
    config_module.check_size(config, *known_size(config.data.dataset), config_module.physical_memory())
    dataset = load_dataset(config.data, config.seed, say=observer.say, progress=observer.progress)
    trainer = _trainer(config, dataset, None, group)
    remarks = data_remarks(dataset, config.data.validation_order)
    manifest = _manifest(dataset, group)
    with directory.create(path, name or own_name, config, manifest) as run, _with_resume_hint(run, group):
        return _train(run, config, trainer, dataset, observer, remarks)


def _trainer(config: Config, dataset: Dataset, state: State | None, group: ProcessGroup) -> Trainer:
    """Return a trainer, unless the network is too large: nothing is allocated before that is known."""
    inputs = dataset.train.images.shape[1]
    memory = config_module.physical_memory()
    config_module.check_size(config, inputs, dataset.classes, memory, len(dataset.train))
    return Trainer(config, dataset, state, group)


def run_worker(group: ProcessGroup) -> None:
    """Train with rank 0 of ``group``, for as long as it does; only rank 0 has files, a terminal and a result."""
    job = group.wait_for_job()
    if job is not None:
        Trainer(*job, group).run_worker()


def resume(
    path: str | os.PathLike[str],
    overrides: Iterable[str] = (),
    *,
    observer: Observer | None = None,
    group: ProcessGroup = SINGLE,
) -> Run:
    """Resume the run ``path`` from its last checkpoint, or from the checkpoint of a run that ``path`` names.

    The end is that of a run never interrupted, bit for bit. ``overrides`` may change what can't change the past:
    ``training.epochs`` where the schedule leaves the learning rates of the epochs done as they were, and where the data
    are. Raises ``UsageError`` for any other, and as :func:`train` does.
    """
    observer = observer or Observer()
    where, at = directory.locate(Path(path))
    with directory.reopen(where) as run:
        checkpoint = _checkpoint_to_resume(run, at)
        config = directory.read_config(where, _listed(overrides), os.environ)
        if checkpoint is not None:
            _check_resume_config(checkpoint, config, where)
            if run.manifest.get("state") == "finished" and at is None and config.training == checkpoint.config.training:
                result = _result(run, config, checkpoint.state)
                observer.say(f"{shown(where)}: is finished; there is nothing to resume")
                return result
        dataset = _same_data(_with_its_data(config, where), checkpoint, run.manifest, observer)
        trainer = _trainer(config, dataset, checkpoint.state if checkpoint else None, group)
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
        if "mlpcli" in changed and (config.training.dropout or config.training.input_dropout):
            observer.say(
                "this version of mlpcli draws other dropout masks: the epochs to come differ from what they were"
            )
        before = _processes(run.manifest)
        if before not in ([], [group.label]):
            counts = " and then ".join(map(str, before))
            observer.say(f"trained by {counts} processes so far, now by {group.label}: the numbers may differ")
        resumed = [*run.manifest.get("resumed", []), {"epoch": trainer.state.epoch, "environment": here}]
        manifest = {**_manifest(dataset, group), **run.manifest, "resumed": resumed}
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
        directory.require_new(keep)
    checkpoint = checkpoints.read(where / directory.CHECKPOINTS / f"last{checkpoints.SUFFIX}")
    manifest = directory.read_manifest(where)
    config = directory.read_config(where, _listed(overrides), os.environ)
    _check_resume_config(checkpoint, config, where)
    config = replace(config, data=replace(config.data, test=False))
    dataset = _same_data(_with_its_data(config, where), checkpoint, manifest, observer)
    with ExitStack() as stack:
        group = stack.enter_context(_group_of(manifest))
        trainer = _trainer(config, dataset, None, group)
        scratch = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlpcli-"))) / where.name
        with directory.create(scratch, where.name, config, _manifest(dataset, group)) as run:
            try:
                _train(run, config, trainer, dataset, observer, epochs=checkpoint.epoch)
            except DivergedError as error:
                found = [Difference("training", f"came to epoch {checkpoint.epoch}", str(error))]
            else:
                found = differences(where, scratch, checkpoint.epoch)
    return Reproduction(where, checkpoint.epoch, config.training.epochs, found, _changes(manifest, group))


def _config_of(config: Config | str | os.PathLike[str] | None, overrides: Iterable[str]) -> tuple[Config, str]:
    """Return the config and its name."""
    overrides = _listed(overrides)
    if isinstance(config, Config):
        if overrides:
            raise UsageError("a Config takes no overrides: change it with dataclasses.replace, or name a config")
        return config, NAME
    if config is None:
        return config_module.load(None, overrides), NAME
    if not isinstance(config, (str, os.PathLike)):
        raise UsageError(f"{config!r:.60} is no config; give a Config, a file, or a name from 'mlpcli config list'")
    path = config_module.find(os.fspath(config))
    return config_module.load(path, overrides), path.stem


def _listed(overrides: Iterable[str]) -> tuple[str, ...]:
    return (overrides,) if isinstance(overrides, str) else tuple(overrides)


@contextmanager
def _with_resume_hint(run: RunDirectory, group: ProcessGroup) -> Iterator[None]:
    try:
        yield
    except RunError as error:
        if not run.is_in_place():
            raise  # what there was to go on from is gone
        how = resume_command(run.path, group.command)
        raise RunError(f"{error}; the last good state is kept; go on with: {how}") from error


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
    remarks: Iterable[Remark] = (),
    epochs: int | None = None,
) -> Run:
    """Train to the end, or until ``epochs`` more epochs are done."""
    state = trainer.state
    for warning in run.warnings():
        observer.say(warning)
    trainer.group.start_workers(trainer)
    observer.begin(run.path, trainer, dataset)
    for remark in remarks:
        observer.remark(remark.message)
    diagnosis = Diagnosis(config, guessing(dataset.train.labels, dataset.class_names)[1])

    def on_step(loss: float) -> None:
        diagnosis.step(loss)
        observer.step(loss)

    record = None
    try:
        for record in islice(trainer.epochs(on_step), epochs):
            run.save(record, _checkpoint(config, dataset, trainer))
            observer.epoch(record, best=state.best_epoch == state.epoch)
            for sign in diagnosis.epoch(record, state.theta):
                observer.remark(f"epoch {record.epoch}: {sign}")
        observer.end()
        if record is not None and trainer.finished and state.step >= LEAST_STEPS:
            _remark_on_guessing(record, state, dataset, observer)
        if dataset.has_test:
            _evaluate_on_test(run, config, trainer, dataset)
    except DivergedError as error:
        run.write_manifest(state="diverged")
        kept = f"the last good checkpoint, of epoch {state.epoch}, is in {run.path}"
        raise DivergedError(
            f"{error}; {kept if run.checkpoint('last').exists() else 'no epoch was completed'}"
        ) from None
    finally:
        observer.end()
    if trainer.finished:
        run.write_manifest(state="finished")
    return _result(run, config, state)


def _remark_on_guessing(record: EpochRecord, state: State, dataset: Dataset, observer: Observer) -> None:
    """Say so where a trained network has not been better than one answer for all images."""
    kind, split, error = "training", dataset.train, record.train_error
    enough = LEAST_A_CLASS * dataset.classes
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


def _evaluate_on_test(run: RunDirectory, config: Config, trainer: Trainer, dataset: Dataset) -> None:
    """Evaluate the run's model, as it is on disk, on the test images: the only time that training does."""
    path = directory.find_checkpoint(run.path)
    checkpoint = checkpoints.read(path)
    try:
        images = dataset.test()
    except DataError as error:
        without = f"{resume_command(run.path, trainer.group.command)} --set data.test=false"
        raise DataError(f"{error}; the run is kept: to end it without a test error: {without}") from error
    evaluator = Evaluator(trainer.architecture, images, dataset.classes, config.network.dtype)
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
    )


def _checkpoint_to_resume(run: RunDirectory, at: Path | None) -> Checkpoint | None:
    """Return the checkpoint to resume from; None if no epoch was completed."""
    if at is not None:
        return checkpoints.read(at)
    last, previous = run.checkpoint("last"), run.checkpoint("previous")
    if not last.exists() and not previous.exists():
        return None
    try:
        return checkpoints.read(last)
    except RunError as error:
        hint = f"; go on from the one before it: {resume_command(previous)}"
        raise RunError(f"{error}{hint if previous.exists() else ''}") from error


def _check_resume_config(checkpoint: Checkpoint, config: Config, where: Path) -> None:
    """Raise ``UsageError`` with the difference if ``config`` would not have come to ``checkpoint``."""
    before, after = config_module.flatten(checkpoint.config), config_module.flatten(config)
    for key in (key for key in before if before[key] != after[key] and key not in RESUMABLE):
        difference = f"{where}: {key}: {before[key]} -> {after[key]}"
        if key != EPOCHS:
            raise UsageError(f"{difference}: a resumed run goes on with the config it began with")
        if config.training.epochs < checkpoint.epoch:
            raise UsageError(f"{difference}: {checkpoint.epoch} epochs are done already")
        if config.augmentation is not None and config.augmentation.final_epochs:
            raise UsageError(
                f"{difference}: would change the strength of the distortions in the epochs done already, as "
                "augmentation.final_epochs are counted from the last"
            )
        if config.training.schedule != "constant":
            raise UsageError(
                f"{difference}: would change the learning rates of the epochs done already, as training.schedule: "
                f"{config.training.schedule} depends on the number of epochs; only with constant can it be changed"
            )


def _with_its_data(config: Config, where: Path) -> Config:
    """``config`` for the run ``where``, its data looked for where a run may send us, or the command line does."""
    return replace(config, data=data_of_a_run(directory.read_config(where).data, config.data))


def _same_data(config: Config, checkpoint: Checkpoint | None, manifest: dict[str, Any], observer: Observer) -> Dataset:
    """Return the data the run began with, its fallback included; raise ``DataError`` if they have changed."""
    data = config.data
    began_with = manifest.get("data", {"fallback_from": None})
    if began_with["fallback_from"]:
        data = replace(data, dataset=began_with["dataset"], fallback=None)
    dataset = load_dataset(data, config.seed, say=observer.say, progress=observer.progress)
    # Before the first checkpoint there is the manifest, unless the process died before it wrote one.
    known = checkpoint.hashes if checkpoint is not None else began_with.get("hashes", dataset.training_hashes)
    for name, digest in dataset.training_hashes.items():
        if known.get(name) != digest:
            raise DataError(f"{data.dataset}: {name} is not the file the run was trained on; its SHA-256 differs")
    return replace(dataset, fallback_from=began_with["fallback_from"] or dataset.fallback_from)
