"""The directory of one run: config, manifest, metrics, checkpoints, and the order in which they are written.

    config.yaml             the resolved config; trains the same run again
    manifest.json           versions, processor, threads, data hashes, and the run's state
    metrics.jsonl           one line an epoch
    checkpoints/last.npz    after the last epoch
    checkpoints/previous.npz    after the one before it
    checkpoints/best.npz    after the epoch with the lowest validation error
    test.json               the look at the test set after training
    evaluations.jsonl       each later look

After an epoch its line goes to metrics.jsonl, then best.npz, previous.npz and last.npz follow. Whatever moment the
process dies at, last.npz is whole, and what is newer than it is written again, to the same bytes, by the resumed run.
A folder is a run from the moment it has a config.yaml.
"""

from __future__ import annotations

import json
import math
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.errors import RunError
from mlpcli.files import PARTIAL, append_line, locked, make_folder, read, remove, remove_partials, write_atomically
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.state import EpochRecord

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
TEST = "test.json"
EVALUATIONS = "evaluations.jsonl"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
MAX_METRICS_BYTES = 1024 * 1024 * 1024


class RunDirectory:
    """A run directory that this process holds: while it does, no other can write to it.

    A context manager; made by :func:`create` or :func:`reopen`. Its methods raise ``RunError`` where a file can't be
    written, and then leave the last good checkpoint as it was.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], held: ExitStack) -> None:
        self.path = path
        self.manifest = manifest
        self._held = held
        self._last: bytes | None = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def checkpoint(self, name: str) -> Path:
        """The path of the checkpoint ``last``, ``previous`` or ``best``."""
        return self.path / CHECKPOINTS / f"{name}{checkpoints.SUFFIX}"

    def save(self, record: EpochRecord, checkpoint: Checkpoint) -> None:
        """Write what there is to keep of an epoch."""
        data = checkpoints.encode(checkpoint)
        with _writing(self.path):
            append_line(self.path / METRICS, json.dumps(asdict(record), allow_nan=False))
            if checkpoint.state.best_epoch == checkpoint.epoch:
                write_atomically(self.checkpoint("best"), [data])
            if self._last is not None:
                # From memory: what the disk has made of last.npz since must not replace a good previous.npz.
                write_atomically(self.checkpoint("previous"), [self._last])
            write_atomically(self.checkpoint("last"), [data])
        self._last = data

    def go_on_from(self, config: Config, checkpoint: Checkpoint | None, manifest: dict[str, Any]) -> None:
        """Make the run what it was when ``checkpoint`` was its last; None: before its first epoch.

        Its state is 'running' again, its config ``config``. Drops from metrics.jsonl what is newer, a torn line
        included, and test.json. Raises ``RunError``, and then has changed nothing, if lines of epochs up to the
        checkpoint's are missing or damaged, or if best.npz is not what the epochs to come need it to be.
        """
        epoch = checkpoint.epoch if checkpoint else 0
        lines = _lines(self.path)
        _check_lines(self.path, lines[:epoch])
        if len(lines) < epoch:
            raise RunError(
                f"{self.path / METRICS}: is damaged: {len(lines)} lines, and {epoch} epochs in the checkpoint; "
                f"{_train_again(self.path)}"
            )
        best = self._best(checkpoint) if checkpoint else None
        with _writing(self.path):
            write_atomically(self.path / CONFIG, [config_module.to_yaml(config).encode()])
            # Before anything goes: a run that lacks its end must not be called finished.
            self.write_manifest(**{**manifest, "state": "running"})
            remove(self.path / TEST)
            if checkpoint is not None:
                # Before the lines of later epochs go: a last.npz ahead of metrics.jsonl could not be resumed.
                self._last = checkpoints.encode(checkpoint)
                write_atomically(self.checkpoint("last"), [self._last])
                if best is not None and best.config != checkpoint.config:
                    checkpoints.write(self.checkpoint("best"), replace(best, config=checkpoint.config))
            if len(lines) > epoch:
                write_atomically(self.path / METRICS, lines[:epoch])

    def _best(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """best.npz, if there has to be one; the epochs to come could not make it again were it lost."""
        if checkpoint.state.best is None:
            return None
        path, wanted = self.checkpoint("best"), checkpoint.state.best_epoch
        try:
            best = checkpoints.read(path)
        except RunError as error:
            raise RunError(f"{error}; {_train_again(self.path)}") from error
        # A later one was written just before the process died, or is ahead of the checkpoint that was asked for: the
        # resumed run comes to it again, if it goes that far.
        if best.epoch != wanted and not checkpoint.epoch < best.epoch <= checkpoint.config.training.epochs:
            raise RunError(f"{path}: is of epoch {best.epoch}, and {wanted} was the best; {_train_again(self.path)}")
        return best

    def write_test(self, result: dict[str, Any]) -> None:
        """Write test.json."""
        with _writing(self.path):
            write_atomically(self.path / TEST, [_json(result)])

    def write_manifest(self, **changes: Any) -> None:
        """Bring the manifest up to date."""
        self.manifest.update(changes)
        with _writing(self.path):
            write_atomically(self.path / MANIFEST, [_json(self.manifest)])


def refuse_taken(path: Path) -> None:
    """Raise ``RunError`` if ``path`` is there and is anything but an empty folder."""
    # What a process leaves that dies before its folder is a run.
    remains = {LOCK, f".{CONFIG}{PARTIAL}"}
    with _writing(path):
        try:
            names = {entry.name for entry in path.iterdir()}
        except FileNotFoundError:
            return
    if CONFIG in names:
        raise RunError(f"{path}: is a run already; name another --out, or go on with it: {_resume(path)}")
    if names - remains:
        raise RunError(f"{path}: exists and is not empty; name another --out")


def create(path: Path | None, name: str, config: Config, manifest: dict[str, Any]) -> RunDirectory:
    """Make the directory of a new run: ``path``, or else runs/NAME-TIME. The run's first state is 'running'.

    Raises ``RunError`` when ``path`` exists and is not empty, is in use, or cannot be written.
    """
    with ExitStack() as held:
        with _writing(path or Path("runs")):
            path = _make(path) if path is not None else _make_new(name)
            _hold(path, held)
            refuse_taken(path)
            write_atomically(path / CONFIG, [config_module.to_yaml(config).encode()])
            make_folder(path / CHECKPOINTS)
        run = RunDirectory(path, {**manifest, "state": "running"}, held.pop_all())
        run.write_manifest()
        return run


def reopen(path: Path) -> RunDirectory:
    """Take hold of an existing run, and clear away what a killed process left half-written.

    Raises ``RunError`` when it is no run, in use by another process, damaged, or cannot be written.
    """
    with ExitStack() as held:
        with _writing(path):
            _hold(path, held)
            if not (path / CHECKPOINTS).is_dir():
                make_folder(path / CHECKPOINTS)
            remove_partials(path)
            remove_partials(path / CHECKPOINTS)
        # A process that was killed before it wrote a manifest has nothing to tell.
        manifest = read_manifest(path) if _is_there(path / MANIFEST) else {}
        return RunDirectory(path, manifest, held.pop_all())


def is_in_use(path: Path) -> bool:
    """Whether a process holds the run ``path``."""
    try:
        with locked(path / LOCK, wait=False):
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False  # a run that can't be written to has no writer


def locate(path: Path) -> tuple[Path, Path | None]:
    """The run that ``path`` is, and None; or the run that the checkpoint ``path`` lies in, and ``path``.

    Raises ``RunError`` when it is neither.
    """
    run, checkpoint = (path, None) if _is_folder(path) else (path.absolute().parent.parent, path)
    if not _is_there(run / CONFIG):
        known = "is no run: it has no config.yaml" if _is_folder(path) else "no such run, and no checkpoint inside one"
        raise RunError(f"{path}: {known}; a run is a folder under runs/")
    return run, checkpoint


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that ``path`` means: the file itself, or a run's best, else its last. Raises ``RunError``."""
    if not _is_folder(path):
        if not _is_there(path):
            raise RunError(f"{path}: no such run or checkpoint; a run is a folder under runs/")
        return path
    folder = path / CHECKPOINTS
    for name in ("best", "last"):
        if (folder / f"{name}{checkpoints.SUFFIX}").exists():
            return folder / f"{name}{checkpoints.SUFFIX}"
    what = "has no checkpoint yet" if (path / CONFIG).is_file() else "is no run"
    raise RunError(f"{path}: {what}; a run is a folder under runs/ that holds checkpoints/last.npz")


def run_of(checkpoint: Path) -> Path | None:
    """The run that the file ``checkpoint`` lies in, if it lies in one."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == CHECKPOINTS and _is_there(folder.parent / CONFIG) else None


def read_manifest(path: Path) -> dict[str, Any]:
    """manifest.json of the run ``path``. Raises ``RunError`` when it is missing or damaged."""
    return _read_json(path / MANIFEST, _MANIFEST)


def read_test(path: Path) -> dict[str, Any] | None:
    """test.json of the run ``path``, if there is one. Raises ``RunError`` when it is damaged."""
    return _read_json(path / TEST, _TEST) if _is_there(path / TEST) else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of the run ``path``, a torn last one left out. Raises ``RunError``."""
    lines = _lines(path)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return _check_lines(path, lines)


def append_evaluation(path: Path, result: dict[str, Any]) -> None:
    """Add a line to evaluations.jsonl of the run ``path``. Raises ``RunError``."""
    with _writing(path):
        append_line(path / EVALUATIONS, json.dumps(result))


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


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def _resume(path: Path) -> str:
    return f"mlpcli train --resume {shlex.quote(str(path))}"


def _train_again(path: Path) -> str:
    return f"train it again: mlpcli train {shlex.quote(str(path / CONFIG))}"


def _hold(path: Path, held: ExitStack) -> None:
    try:
        held.enter_context(locked(path / LOCK, wait=False))
    except BlockingIOError as error:
        raise RunError(f"{path}: is in use by another mlpcli; wait for it to end, or name another --out") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise RunError(f"{where}: cannot be written: {error.strerror or error}") from error


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _read_json(path: Path, schema: Schema) -> dict[str, Any]:
    """The JSON object in ``path``, which fits ``schema``. Raises ``RunError``."""
    try:
        value = json.loads(read(path, MAX_DOCUMENT_BYTES), parse_constant=_refuse)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: is damaged: no JSON document") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: is damaged: no JSON object")
    if wrong := _misfit(value, schema):
        raise RunError(f"{path}: is damaged: its {wrong!r} is missing or not what it should be")
    return value


def _lines(path: Path) -> list[bytes]:
    """The lines of metrics.jsonl of the run ``path``, as they are. Raises ``RunError``."""
    try:
        return read(path / METRICS, MAX_METRICS_BYTES).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path / METRICS}: cannot be read: {error.strerror}") from error


def _check_lines(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    """What ``lines`` say. Raises ``RunError`` if one is not the line of the epoch it should be."""
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line, parse_constant=_refuse) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            record = {**dict.fromkeys(_BESIDE_AN_AVERAGE), **record}
        if not isinstance(record, dict) or _misfit(record, _RECORD) or record["epoch"] != number:
            raise RunError(f"{path / METRICS}:{number}: is damaged: no line of epoch {number}; {_train_again(path)}")
        records.append(record)
    return records


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


# What the files of a run hold; nothing read from one is used before it fits.
Fits = Callable[[Any], bool]
Schema = dict[str, Fits]


def _misfit(value: dict[str, Any], schema: Schema) -> str | None:
    """The first key of ``schema`` that ``value`` lacks or has something else under."""
    return next((key for key, fits in schema.items() if key not in value or not fits(value[key])), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or _is_count(value)


def _mapping_of(fits: Fits) -> Fits:
    return lambda value: isinstance(value, dict) and all(map(_is_text, value)) and all(map(fits, value.values()))


def _list_of(fits: Fits) -> Fits:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _object(schema: Schema) -> Fits:
    return lambda value: isinstance(value, dict) and _misfit(value, schema) is None


def _or_null(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


_ENVIRONMENT = _mapping_of(lambda value: _is_text(value) or _is_count(value))
_MANIFEST: Schema = {
    "state": lambda value: value in ("running", "finished", "diverged"),
    "started": _is_text,
    "environment": _ENVIRONMENT,
    "data": _object({"dataset": _is_text, "fallback_from": _or_null(_is_text), "hashes": _mapping_of(_is_text)}),
    "resumed": _list_of(_object({"epoch": _is_count, "environment": _ENVIRONMENT})),
}
_TEST: Schema = {
    "checkpoint": _is_text,
    "examples": _is_count,
    "errors": _is_count,
    "error": _is_number,
    "loss": _is_number,
}
_OF_TYPE: dict[str, Fits] = {
    "int": _is_count,
    "float": _is_number,
    "float | None": _or_null(_is_number),
    "list[float]": _list_of(_is_number),
    "list[float] | None": _or_null(_list_of(_is_number)),
}
_RECORD: Schema = {field.name: _OF_TYPE[str(field.type)] for field in fields(EpochRecord)}
# Lines written before there were averages lack what is beside one.
_BESIDE_AN_AVERAGE = ("raw_validation_loss", "raw_validation_error")
