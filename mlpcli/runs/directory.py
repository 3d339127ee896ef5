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
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.errors import RunError
from mlpcli.files import append_line, locked, remove_partials, write_atomically
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.training.loop import EpochRecord

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
TEST = "test.json"
EVALUATIONS = "evaluations.jsonl"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"


class RunDirectory:
    """A run directory that this process holds: while it does, no other can write to it.

    A context manager; made by :func:`create` or :func:`reopen`. Its methods raise ``RunError`` where a file can't be
    written, and then leave the last good checkpoint as it was.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], held: ExitStack) -> None:
        self.path = path
        self.manifest = manifest
        self._held = held

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def checkpoint(self, name: str) -> Path:
        """The path of the checkpoint ``last``, ``previous`` or ``best``."""
        return self.path / CHECKPOINTS / f"{name}{checkpoints.SUFFIX}"

    def save(self, record: EpochRecord, checkpoint: Checkpoint) -> None:
        """Write what there is to keep of an epoch."""
        last = self.checkpoint("last")
        with _writing(self.path):
            append_line(self.path / METRICS, json.dumps(asdict(record)))
            data = checkpoints.encode(checkpoint)
            if checkpoint.state.best_epoch == checkpoint.epoch:
                write_atomically(self.checkpoint("best"), [data])
            if last.exists():
                write_atomically(self.checkpoint("previous"), [last.read_bytes()])
            write_atomically(last, [data])

    def write_config(self, config: Config) -> None:
        """Write config.yaml anew."""
        with _writing(self.path):
            write_atomically(self.path / CONFIG, [config_module.to_yaml(config).encode()])

    def write_test(self, result: dict[str, Any]) -> None:
        """Write test.json."""
        with _writing(self.path):
            write_atomically(self.path / TEST, [_json(result)])

    def drop_test(self) -> None:
        """Remove test.json: it is of a checkpoint that further epochs may replace."""
        with _writing(self.path):
            (self.path / TEST).unlink(missing_ok=True)

    def write_manifest(self, **changes: Any) -> None:
        """Bring the manifest up to date."""
        self.manifest.update(changes)
        with _writing(self.path):
            write_atomically(self.path / MANIFEST, [_json(self.manifest)])

    def cut_back(self, epoch: int) -> None:
        """Drop from metrics.jsonl what is newer than ``epoch``, a torn line included. Raises ``RunError`` if lines of
        epochs up to ``epoch`` are missing or damaged."""
        metrics = self.path / METRICS
        with _writing(self.path):
            lines = metrics.read_bytes().splitlines(keepends=True) if metrics.exists() else []
            for number, line in enumerate(lines[:epoch], start=1):
                if _epoch_of(line) != number:
                    raise RunError(f"{metrics}:{number}: is damaged: no line of epoch {number}")
            if len(lines) < epoch:
                raise RunError(f"{metrics}: is damaged: {epoch} epochs are in the checkpoint, {len(lines)} lines here")
            if len(lines) > epoch:
                write_atomically(metrics, lines[:epoch])


def create(path: Path | None, name: str, config: Config, manifest: dict[str, Any]) -> RunDirectory:
    """Make the directory of a new run: ``path``, or else runs/NAME-TIME. The run's first state is 'running'.

    Raises ``RunError`` when ``path`` exists and is not empty, is in use, or cannot be written.
    """
    with ExitStack() as held:
        with _writing(path or Path("runs")):
            path = _make(path) if path is not None else _make_new(name)
            _hold(path, held)
            if any(entry.name != LOCK for entry in path.iterdir()):
                raise RunError(
                    f"{path}: exists and is not empty; name another --out, or go on with it: "
                    f"mlpcli train --resume {path}"
                )
            (path / CHECKPOINTS).mkdir()
            write_atomically(path / CONFIG, [config_module.to_yaml(config).encode()])
        run = RunDirectory(path, {**manifest, "state": "running"}, held.pop_all())
        run.write_manifest()
        return run


def reopen(path: Path) -> RunDirectory:
    """Take hold of an existing run, and clear away what a killed process left half-written.

    Raises ``RunError`` when it is no run, in use by another process, damaged, or cannot be written.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: is no run: it has no {CONFIG}")
    with ExitStack() as held:
        with _writing(path):
            _hold(path, held)
            (path / CHECKPOINTS).mkdir(exist_ok=True)
            remove_partials(path)
            remove_partials(path / CHECKPOINTS)
        # A process that was killed before it wrote a manifest has nothing to tell.
        manifest = read_manifest(path) if (path / MANIFEST).exists() else {}
        return RunDirectory(path, manifest, held.pop_all())


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that ``path`` means: the file itself, or a run's best, else its last. Raises ``RunError``."""
    if not path.is_dir():
        if not path.exists():
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
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == CHECKPOINTS and (run / CONFIG).is_file() else None


def read_manifest(path: Path) -> dict[str, Any]:
    """manifest.json of the run ``path``. Raises ``RunError`` when it is missing or damaged."""
    return _read_json(path / MANIFEST)


def read_test(path: Path) -> dict[str, Any] | None:
    """test.json of the run ``path``, if there is one. Raises ``RunError`` when it is damaged."""
    return _read_json(path / TEST) if (path / TEST).exists() else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of the run ``path``, a torn last one left out. Raises ``RunError``."""
    try:
        lines = (path / METRICS).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path / METRICS}: cannot be read: {error.strerror}") from error
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if _epoch_of(line) != number:
            raise RunError(f"{path / METRICS}:{number}: is damaged: no line of epoch {number}")
    return [json.loads(line) for line in lines]


def append_evaluation(path: Path, result: dict[str, Any]) -> None:
    """Add a line to evaluations.jsonl of the run ``path``. Raises ``RunError``."""
    with _writing(path):
        append_line(path / EVALUATIONS, json.dumps(result))


def _make(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _make_new(name: str) -> Path:
    stamp = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        path = Path("runs", stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise RunError(f"runs/{stamp}: a thousand runs of that name began in this second; name one with --out")


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
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: is damaged: no JSON document") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: is damaged: no JSON object")
    return value


def _epoch_of(line: bytes) -> Any:
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return value.get("epoch") if isinstance(value, dict) else None
