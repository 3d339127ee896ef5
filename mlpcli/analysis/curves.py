"""Export of the epochs of runs for other programs: one CSV table, or TensorBoard's event files.

A metric with a value per layer, such as gradient_norm, becomes one column per layer: gradient_norm_1, gradient_norm_2.
"""

from __future__ import annotations

import csv
import io
from calendar import timegm
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import strptime
from typing import Any

from mlpcli.datasets.collection import readable
from mlpcli.errors import RunError, UsageError
from mlpcli.files import Folder
from mlpcli.runs import directory, metrics
from mlpcli.runs.summary import read_run


def names_of(runs: Sequence[Path]) -> dict[str, Path]:
    """Return a name for each of ``runs``: its folder's name, or its path where two have the same."""
    names = [run.resolve().name for run in runs]
    return {name if names.count(name) == 1 else str(run): run for name, run in zip(names, runs, strict=True)}


def to_csv(runs: Sequence[Path]) -> bytes:
    """Write one CSV row per epoch: the run's name, then the fields of metrics.jsonl; null is empty.

    Raises ``RunError``.
    """
    rows = [{"run": readable(name), **_flat(line)} for name, run in names_of(runs).items() for line in _metrics(run)]
    header = list(dict.fromkeys(["run", "epoch", *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def to_tensorboard(runs: Sequence[Path]) -> dict[str, bytes]:
    """Return the event files of ``runs`` by their paths in a log folder: RUN/events.out.tfevents.TIME.mlpcli.

    A scalar is called loss/train, loss/validation, error/train ...; its step is the epoch, its time the start of the
    run plus the training time. Equal runs give equal bytes. Raises ``RunError``, and ``UsageError`` without the package
    tensorboard.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        raise UsageError("event files need the package tensorboard: pip install 'mlpcli[tensorboard]'") from None

    files, folders = {}, dict[str, str]()
    for name, run in names_of(runs).items():
        time = _begun(run)
        file = _Bytes()
        writer = RecordWriter(file)
        writer.write(Event(wall_time=time, file_version="brain.Event:2").SerializeToString(deterministic=True))
        for line in _metrics(run):
            time += line["seconds"]
            values = [
                Summary.Value(tag=_tag(key), simple_value=value)
                for key, value in _flat(line).items()
                if key != "epoch" and value is not None
            ]
            event = Event(wall_time=time, step=line["epoch"], summary=Summary(value=values))
            writer.write(event.SerializeToString(deterministic=True))
        folder = name.strip("/").replace("/", "-")
        if folder in folders:
            raise UsageError(f"{folders[folder]} and {name} would both be the run {folder}; export them one by one")
        folders[folder] = name
        files[f"{folder}/events.out.tfevents.{int(_begun(run))}.mlpcli"] = file.getvalue()
    return files


class _Bytes(io.BytesIO):
    """A buffer whose bytes stay readable when a writer closes it."""

    def close(self) -> None:
        """Do nothing."""


def _tag(key: str) -> str:
    """Return the tag loss/train for 'train_loss': TensorBoard groups tags by their beginning."""
    for what in ("loss", "error"):
        if key.endswith(f"_{what}"):
            return f"{what}/{key.removesuffix(f'_{what}')}"
    for what in ("gradient_norm", "saturation"):
        if key.startswith(f"{what}_"):
            return f"{what}/layer {key.removeprefix(f'{what}_')}"
    return f"training/{key}"


def _metrics(run: Path) -> list[dict[str, Any]]:
    read_run(run)  # checks all of its files
    with Folder(run) as folder:
        lines = list(metrics.each(folder))
    if not lines:
        raise RunError(f"{run}: has no epoch to export yet")
    return lines


def _begun(run: Path) -> float:
    try:
        return timegm(strptime(directory.read_manifest(run)["started"], "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        raise RunError(f"{run / directory.MANIFEST}: is damaged: its 'started' is not a time") from None


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in line.items():
        if isinstance(value, list):
            flat.update({f"{key}_{layer}": each for layer, each in enumerate(value, start=1)})
        else:
            flat[key] = value
    return flat
