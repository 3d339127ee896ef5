"""The directory of one run: config, manifest, metrics, checkpoints, and the order in which they are written.

    config.yaml             the resolved config; trains the same run again
    manifest.json           versions, processor, threads, data hashes, and the run's state
    metrics.jsonl           one line per epoch
    steps.jsonl             the losses of steps during training, for live pages; differs between equal runs
    checkpoints/last.npz    after the last epoch
    checkpoints/previous.npz    after the one before it
    checkpoints/best.npz    after the epoch with the lowest validation error
    test.json               the evaluation on the test set after training
    evaluations.jsonl       each later evaluation

After an epoch, a line is appended to metrics.jsonl; then best.npz, previous.npz and last.npz are written. Even if the
process is killed at any moment, last.npz is whole, and the resumed run writes everything newer again, with the same
bytes. A folder is a run as soon as it has a config.yaml.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.errors import ConfigError, RunError, UsageError, shown
from mlpcli.files import NO_LOCKS, TEMPORARY, Folder, make_folder
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import metrics
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.environment import MAX_MANIFEST_BYTES
from mlpcli.runs.layout import CHECKPOINTS as CHECKPOINTS
from mlpcli.runs.layout import CONFIG as CONFIG
from mlpcli.runs.layout import (
    EVALUATIONS,
    METRICS,
    STEPS,
    TEST,
    reading,
    resume_command,
    train_again,
    writing,
)
from mlpcli.runs.layout import LOCK as LOCK
from mlpcli.runs.layout import MANIFEST as MANIFEST
from mlpcli.runs.metrics import Metrics
from mlpcli.runs.schema import (
    Schema,
    is_count,
    is_number,
    is_text,
    list_of,
    mapping_of,
    misfit,
    object_of,
    or_null,
    parse,
)
from mlpcli.runs.steps import Steps, StepWriter
from mlpcli.runs.steps import read as _read_steps
from mlpcli.state import EpochRecord

NOTHING: Mapping[str, str] = {}


class RunDirectory:
    """A run directory that this process has locked: no other process can write to it.

    It writes to the directory that was opened, even if another one is put at its path. A context manager; made by
    :func:`create` or :func:`reopen`. Its methods raise ``RunError`` if a file cannot be written; the last good
    checkpoint is then unchanged.
    """

    def __init__(self, folder: Folder, manifest: dict[str, Any], lock: int, stack: ExitStack) -> None:
        self.path = folder.path
        self.manifest = manifest
        self._folder = folder
        self._lock = lock
        self._stack = stack
        self._epoch = 0
        self._last: bytes | None = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def warnings(self) -> list[str]:
        """Return warnings about missing guarantees of this file system."""
        with writing(self.path):
            if self._folder.can_flush():
                return []
        what = "its file system cannot flush a folder: after a power failure the newest files may be lost"
        return [f"{shown(self.path)}: {what}"]

    def is_in_place(self) -> bool:
        """Return True if the directory is still at its path, and has a folder for checkpoints."""
        try:
            return self._folder.is_at(LOCK, self._lock) and self._folder.has(CHECKPOINTS)
        except OSError:
            return False

    def checkpoint(self, name: str) -> Path:
        """Return the path of the checkpoint ``last``, ``previous`` or ``best``."""
        return self.path / _checkpoint(name)

    def step_writer(self, steps_per_epoch: int, examples: int, step: int) -> StepWriter:
        """Return the writer of the losses of the steps after ``step``, for live pages."""
        return StepWriter(self._folder, steps_per_epoch, examples, step)

    def save(self, record: EpochRecord, checkpoint: Checkpoint) -> None:
        """Write the metrics and checkpoints of an epoch."""
        data = checkpoints.encode(checkpoint)
        self._epoch = checkpoint.epoch
        self._require_in_place()
        with writing(self.path):
            self._folder.append_line(METRICS, json.dumps(asdict(record), allow_nan=False))
            if checkpoint.state.best_epoch == checkpoint.epoch:
                self._write(_checkpoint("best"), data)
            if self._last is not None:
                # From memory: if last.npz was damaged on the disk since, it must not replace a good previous.npz.
                self._write(_checkpoint("previous"), self._last)
            self._write(_checkpoint("last"), data)
        self._last = data

    def rewind_to(self, config: Config, checkpoint: Checkpoint | None, manifest: dict[str, Any]) -> None:
        """Rewind the run to ``checkpoint``, or to before the first epoch if None.

        Its state becomes 'running', its config ``config``. Later lines of metrics.jsonl, a torn line and test.json are
        removed. Raises ``RunError``, and changes nothing, if lines of epochs up to the checkpoint's are missing or
        damaged, or if best.npz is not the one that the following epochs need; ``ConfigError`` if ``config`` is too
        large for a file.
        """
        written = config_module.to_file(config)
        self._epoch = checkpoint.epoch if checkpoint else 0
        length = metrics.length_of(self._folder, self._epoch)
        best = self._best(checkpoint) if checkpoint else None
        self._require_in_place()
        with writing(self.path):
            # First: a run with a config of more epochs, or without its last ones, must not be called finished.
            self.write_manifest(**{**manifest, "state": "running"})
            self._write(CONFIG, written)
            self._folder.remove(TEST)
            self._folder.remove(STEPS)
            if checkpoint is not None:
                # Before later lines are removed: a last.npz ahead of metrics.jsonl could not be resumed.
                self._last = checkpoints.encode(checkpoint)
                self._write(_checkpoint("last"), self._last)
                if best is not None and best.config != checkpoint.config:
                    self._write(_checkpoint("best"), checkpoints.encode(replace(best, config=checkpoint.config)))
            metrics.cut(self._folder, length)

    def _best(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """Return best.npz, if there has to be one; the following epochs could not recreate it."""
        if checkpoint.state.best is None:
            return None
        path, wanted = self.checkpoint("best"), checkpoint.state.best_epoch
        try:
            best = checkpoints.read(path)
        except RunError as error:
            raise RunError(f"{error}; {train_again(self.path)}") from error
        # A later one was written just before the process was killed, or is ahead of the checkpoint to resume from: the
        # resumed run recreates it, if it trains that long.
        if best.epoch != wanted and not checkpoint.epoch < best.epoch <= checkpoint.config.training.epochs:
            what = f"is of epoch {best.epoch}, and {wanted} was the best"
            raise RunError(f"{shown(path)}: {what}; {train_again(self.path)}")
        return best

    def write_test(self, result: dict[str, Any]) -> None:
        """Write test.json."""
        self._require_in_place()
        with writing(self.path):
            self._write(TEST, _json(result))

    def write_manifest(self, **changes: Any) -> None:
        """Update the manifest."""
        self.manifest.update(changes, epochs=self._epoch)
        self._require_in_place()
        with writing(self.path):
            self._write(MANIFEST, _json(self.manifest))

    def _require_in_place(self) -> None:
        with writing(self.path):
            in_place = self._folder.is_at(LOCK, self._lock)
        if not in_place:
            raise RunError(
                f"{shown(self.path)}: was removed, moved away or replaced while it was trained; nothing more is "
                "written to it"
            )

    def _write(self, name: str, data: bytes) -> None:
        self._folder.write(name, [data])


def require_new(path: Path, option: str = "--out") -> None:
    """Raise ``RunError`` if ``path``, which ``option`` names, exists and is anything but an empty folder."""
    with writing(path):
        try:
            folder = Folder(path)
        except FileNotFoundError:
            return
        with folder:
            _require_new(folder, option)


def is_vacant(path: Path) -> bool:
    """Return True if a new run can be made at ``path``: nothing is there, or only what a killed process left."""
    try:
        with Folder(path) as folder:
            _require_new(folder)
    except FileNotFoundError:
        return True
    except (OSError, RunError):
        return False
    return True


def _require_new(folder: Folder, option: str = "--out") -> None:
    names = folder.names()
    if CONFIG in names:
        how = f"name another {option}, or resume it: {resume_command(folder.path)}"
        raise RunError(f"{shown(folder.path)}: is a run already; {how}")
    # Anything else was left by a process that was killed before its folder became a run.
    if any(name != LOCK and not TEMPORARY.fullmatch(name) for name in names):
        raise RunError(f"{shown(folder.path)}: exists and is not empty; name another {option}")


def create(path: Path | None, name: str, config: Config, manifest: dict[str, Any]) -> RunDirectory:
    """Make the directory of a new run: ``path``, or else runs/NAME-TIME. The run's first state is 'running'.

    Raises ``RunError`` when ``path`` exists and is not empty, is in use, or cannot be written, and ``ConfigError`` when
    ``config`` is too large for a file.
    """
    written = config_module.to_file(config)
    with ExitStack() as stack, writing(path or Path("runs")):
        made = _make(path) if path is not None else _make_new(name)
        folder, lock = _hold(made, stack, ", or name another --out")
        _require_new(folder)
        folder.remove_temporaries()
        folder.write(CONFIG, [written])
        folder.make_folder(CHECKPOINTS)
        run = RunDirectory(folder, {**manifest, "state": "running"}, lock, stack.pop_all())
        run.write_manifest()
        return run


def reopen(path: Path) -> RunDirectory:
    """Lock an existing run, and remove incomplete files that a killed process left.

    Raises ``RunError`` when it is not a run, in use by another process, damaged, or cannot be written.
    """
    with ExitStack() as stack:
        with writing(path):
            folder, lock = _hold(path, stack)
            if not folder.has(CHECKPOINTS):
                folder.make_folder(CHECKPOINTS)
            folder.remove_temporaries()
            folder.remove_temporaries(CHECKPOINTS)
        # A process that was killed before it wrote a manifest has left nothing to read.
        manifest = read_manifest(path) if folder.has(MANIFEST) else {}
        return RunDirectory(folder, manifest, lock, stack.pop_all())


@contextmanager
def opened(run: Path | Folder) -> Iterator[Folder]:
    """Open the directory ``run``, unless it is open. Raises ``RunError``."""
    if isinstance(run, Folder):
        yield run
        return
    with reading(run):
        folder = Folder(run)
    with folder:
        yield folder


def is_in_use(run: Path | Folder) -> bool:
    """Return True if a process has locked ``run``. Creates no file, and locks nothing."""
    try:
        with opened(run) as folder:
            return folder.is_locked(LOCK)
    except (OSError, RunError):
        return False


class HasPath(Protocol):
    """A run as training returns it, or any object with its path."""

    @property
    def path(self) -> Path:
        """Return the run's folder, or a checkpoint."""


def path_of(run: HasPath | str | os.PathLike[str]) -> Path:
    """Return the path of ``run``, which is a path or has one. Raises ``UsageError`` for anything else."""
    path = run if isinstance(run, (str, os.PathLike)) else getattr(run, "path", None)
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"{run!r:.60} is not a run; give a Run, or the path of a run or of a checkpoint")
    return Path(path)


def locate(path: Path) -> tuple[Path, Path | None]:
    """Return the run ``path`` and None; for a checkpoint inside a run, the run and ``path``.

    Raises ``RunError`` when it is neither.
    """
    run, checkpoint = (path, None) if is_folder(path) else (path.absolute().parent.parent, path)
    for each in (path, run / CONFIG):
        _require_permission(each, path)
    if not is_there(run / CONFIG):
        known = "is not a run: it has no config.yaml" if is_folder(path) else "no such run, and no checkpoint in a run"
        raise RunError(f"{shown(path)}: {known}; a run is a folder under runs/")
    return run, checkpoint


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint ``path``, or the best, else the last, of the run ``path``. Raises ``RunError``."""
    if not is_folder(path):
        _require_permission(path, path)
        if not is_there(path):
            raise RunError(f"{shown(path)}: no such run or checkpoint; a run is a folder under runs/")
        return path
    best, last = (path / _checkpoint(name) for name in ("best", "last"))
    with reading(path), Folder(path) as folder:
        if folder.has(_checkpoint("best")):
            return best
        if folder.has(_checkpoint("last")):
            if checkpoints.read(last).state.best is not None:
                raise RunError(f"{shown(best)}: is missing; name another checkpoint, such as {shown(last)}")
            return last
        what = "has no checkpoint yet" if folder.has(CONFIG) else "is not a run"
    raise RunError(f"{shown(path)}: {what}; a run is a folder under runs/ with checkpoints/last.npz")


def other_checkpoints(path: Path, file: Path) -> list[Path]:
    """Return the checkpoints of the run ``path`` except ``file``; none if it cannot be read."""
    try:
        with Folder(path / CHECKPOINTS) as folder:
            found = [path / CHECKPOINTS / name for name in folder.names() if name.endswith(checkpoints.SUFFIX)]
    except OSError:
        return []
    return [each for each in found if each != file]


def run_of(checkpoint: Path) -> Path | None:
    """Return the run that the file ``checkpoint`` lies in, if any."""
    folder = checkpoint.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.absolute().parent
    return folder.parent if folder.name == CHECKPOINTS and is_there(folder.parent / CONFIG) else None


def own_file_of(path: Path) -> Path | None:
    """Return the run that ``path`` is a file of, by its name; None for any other file, also in the folder of a run."""
    folder = path.absolute().parent
    if folder.name == CHECKPOINTS and is_run(folder.parent):
        return folder.parent
    own = (CONFIG, MANIFEST, METRICS, STEPS, TEST, EVALUATIONS, LOCK)
    trained = is_run(folder) and (is_there(folder / MANIFEST) or is_there(folder / CHECKPOINTS))
    return folder if path.name in own and trained else None


def is_run(path: Path) -> bool:
    """Return True if ``path`` is a folder with an entry config.yaml of any kind, or one that may not be read."""
    try:
        (path / CONFIG).lstat()
    except PermissionError:
        return is_folder(path)
    except (OSError, ValueError):
        return False
    return True


def has_manifest(run: Path | Folder) -> bool:
    """Return False if the process of ``run`` was killed before it wrote a manifest. Raises ``RunError``."""
    with opened(run) as folder, reading(folder.path):
        return folder.has(MANIFEST)


def read_config(run: Path | Folder, overrides: Iterable[str] = (), environment: Mapping[str, str] = NOTHING) -> Config:
    """Return the config of ``run``, with ``environment`` and then ``overrides`` on top of it.

    Raises ``ConfigError`` when it is damaged, ``RunError`` when it cannot be read.
    """
    with opened(run) as folder, reading(folder.path):
        data = folder.read(CONFIG, config_module.MAX_BYTES)
    path = folder.path / CONFIG
    if not data.strip():
        raise ConfigError(f"{shown(path)}: is empty: the run's config is lost")
    return config_module.parse(data, path, overrides, environment)


def read_manifest(run: Path | Folder) -> dict[str, Any]:
    """Return manifest.json of ``run``. Raises ``RunError`` when it is missing or damaged."""
    with opened(run) as folder:
        return {"epochs": 0, **_read_json(folder, MANIFEST, _MANIFEST)}


def read_test(run: Path | Folder) -> dict[str, Any] | None:
    """Return test.json of ``run``, if there is one. Raises ``RunError`` when it is damaged."""
    with opened(run) as folder:
        with reading(folder.path):
            there = folder.has(TEST)
        return _read_json(folder, TEST, _TEST) if there else None


def read_metrics(run: Path | Folder, at_least: int = 0) -> Metrics:
    """Return a summary of metrics.jsonl of ``run``, without a torn last line.

    Raises ``RunError`` if a line is damaged, or if there are fewer than ``at_least``.
    """
    with opened(run) as folder:
        return metrics.read(folder, at_least)


def read_steps(path: Path) -> Steps | None:
    """Return the losses of steps in steps.jsonl of the run ``path``, if there are any."""
    try:
        with Folder(path) as folder:
            return _read_steps(folder)
    except (OSError, ValueError):
        return None


def read_last_record(path: Path) -> dict[str, Any] | None:
    """Return the last whole line of metrics.jsonl without reading the others; None if empty. Raises ``RunError``."""
    with reading(path), Folder(path) as folder:
        return metrics.last(folder)


def append_evaluation(path: Path, result: dict[str, Any]) -> None:
    """Add a line to evaluations.jsonl of the run ``path``. Raises ``RunError``."""
    with writing(path), Folder(path) as folder:
        folder.append_line(EVALUATIONS, json.dumps(result))


def _checkpoint(name: str) -> str:
    return f"{CHECKPOINTS}/{name}{checkpoints.SUFFIX}"


def _make(path: Path) -> Path:
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        make_folder(path)
    return path


def _make_new(name: str) -> Path:
    stamp = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        path = Path("runs", stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.parent.mkdir(exist_ok=True)
            make_folder(path)
        except FileExistsError:
            continue
        return path
    raise RunError(f"runs/{stamp}: a thousand runs of that name began in this second; name one with --out")


def is_folder(path: Path) -> bool:
    """Return True if ``path`` is a folder, or a link to one; False for an invalid path."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Return True if anything is at ``path``, even a dangling link."""
    try:
        path.lstat()
    except (OSError, ValueError):
        return False
    return True


def _require_permission(path: Path, named: Path) -> None:
    """Raise ``RunError`` about ``named`` if a folder on the way to ``path`` may not be searched: it may be there."""
    try:
        path.lstat()
    except PermissionError as error:
        raise RunError(f"{shown(named)}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError):
        pass


def _hold(path: Path, stack: ExitStack, other: str = "") -> tuple[Folder, int]:
    """Return the folder ``path`` and the descriptor of its lock, open until ``stack`` closes. Raises as files do.

    ``other`` is what else than to wait may be done if it is in use.
    """
    folder = stack.enter_context(Folder(path))
    try:
        return folder, stack.enter_context(folder.locked(LOCK, wait=False))
    except BlockingIOError as error:
        raise RunError(f"{shown(path)}: is in use by another mlpcli; wait for it to end{other}") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise RunError(
            f"{shown(path / LOCK)}: cannot be locked ({error.strerror}): its file system has no locks, so two "
            "processes could write to one run; name an --out on another file system"
        ) from error


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _read_json(folder: Folder, name: str, schema: Schema) -> dict[str, Any]:
    """Read the JSON object in the file ``name`` and check it against ``schema``. Raises ``RunError``."""
    path = folder.path / name
    with reading(path):
        value = parse(folder.read(name, MAX_MANIFEST_BYTES))
    if value is None:
        raise RunError(f"{shown(path)}: is damaged: not a JSON object")
    if wrong := misfit({**{key: _OPTIONAL[key] for key in schema.keys() & _OPTIONAL.keys()}, **value}, schema):
        raise RunError(f"{shown(path)}: is damaged: its {wrong!r} is missing or not allowed")
    return value


_ENVIRONMENT = mapping_of(lambda value: is_text(value) or is_count(value))
_MANIFEST: Schema = {
    "state": lambda value: value in ("running", "finished", "diverged"),
    "started": is_text,
    "environment": _ENVIRONMENT,
    "data": object_of({"dataset": is_text, "fallback_from": or_null(is_text), "hashes": mapping_of(is_text)}),
    "resumed": list_of(object_of({"epoch": is_count, "environment": _ENVIRONMENT})),
    "epochs": is_count,
    "init": or_null(
        object_of({"sha256": is_text, "dataset": is_text, "epoch": is_count, "drawn": list_of(is_text)}),
    ),
    "teacher": or_null(list_of(object_of({"sha256": is_text, "dataset": is_text, "epoch": is_count}))),
}
# Optional keys of a manifest: the epochs trained when it was written, the origin of the weights, and the teachers.
_OPTIONAL: dict[str, int | None] = {"epochs": 0, "init": None, "teacher": None}
_TEST: Schema = {
    "checkpoint": is_text,
    "examples": is_count,
    "errors": is_count,
    "error": is_number,
    "loss": is_number,
}
