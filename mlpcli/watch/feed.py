"""Events of a live page: JSON by kind, read from run directories.

A light read checks the files' times and reads the files that changed; it runs twice a second. A heavy read opens a
checkpoint and evaluates it on the validation images. Its CPU time is on a budget: training must not pay for it.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlpcli.analysis.evaluate_runs import EvaluatedRuns, evaluate_unrecorded, load_default_images
from mlpcli.analysis.evaluation import LoadedModel
from mlpcli.analysis.report.contents import Contents, contents, name_of, of_run, waiting, weights_of
from mlpcli.analysis.report.page import base64, json_text, page, runs_page
from mlpcli.analysis.report.side_by_side import Describer, names_of, side_by_side
from mlpcli.datasets.load import Part, SplitName
from mlpcli.errors import DataError, MlpcliError
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.layout import CHECKPOINTS, CONFIG, MANIFEST, METRICS, STEPS, TEST, quoted, resume_command
from mlpcli.runs.ranking import Known
from mlpcli.runs.steps import Line
from mlpcli.runs.summary import try_to_read

# Fraction of all CPU time that reading checkpoints may take; evaluation may take as much again.
CPU_FRACTION = 0.003
MOST_POINTS = 400  # losses of steps
SMOOTH = 50  # the loss is averaged over an epoch divided by this
SPEED_SECONDS = 10.0  # the speed is averaged over this time
MOST_OTHERS = 40
NOT_YET = "No epoch is completed, so there is no network to show."
NO_IMAGES = "The images are not available on the machine that made this page."

Values = dict[str, Any]
Events = dict[str, str]  # JSON, by kind
Signature = tuple[Any, ...]


class Budget:
    """A limit on CPU time, as a fraction of the machine's."""

    def __init__(self, cores: int, fraction: float = CPU_FRACTION) -> None:
        self._per_second = cores * fraction
        self._free = -math.inf

    @property
    def is_free(self) -> bool:
        """Return True once enough time has passed for the CPU seconds spent."""
        return time.monotonic() >= self._free

    def spend(self, seconds: float) -> None:
        """Record that ``seconds`` of CPU time were used."""
        self._free = time.monotonic() + seconds / self._per_second


@dataclass(frozen=True)
class Seen:
    """The newest values read from a run: its part of a document, and its state."""

    document: Values
    state: str


class RunFeed:
    """Events of the run ``path``. One thread may read light and another heavy at the same time."""

    def __init__(self, path: Path, cores: int) -> None:
        self.path = path
        self.title = ""
        self._signature: Signature = ()
        self._presence: Signature = ()
        self._seen: Seen | None = None
        self._steps: tuple[Signature, Values | None] = ((), None)
        self._weights, self._evaluations = Budget(cores), Budget(cores)
        self._read: Signature = ()  # of the checkpoint whose weights were sent
        self._evaluated: Signature = ()  # of the one that was evaluated
        self._images: tuple[Part, SplitName] | None = None
        self._no_images: str | None = None

    def html(self) -> bytes:
        """Return the page without a checkpoint. Raises ``RunError`` or ``ConfigError``."""
        return page(waiting(self.path, NOT_YET), live=True)

    @property
    def state(self) -> str:
        """Return the run's state: running, finished, interrupted, diverged, damaged or removed."""
        return self._seen.state if self._seen else "running"

    def state_may_differ(self) -> bool:
        """Return True if the run was removed, or a process began or ended to train it, since the last light read."""
        return _presence(self.path) != self._presence

    def light(self) -> Events:
        """Return event ``run`` if its files have changed, and ``progress``."""
        events: Events = {}
        before = self._seen
        self._presence = _presence(self.path)
        for _ in range(3):  # files that change while they are read are read again
            signature = _signature(self.path, CONFIG, MANIFEST, METRICS, TEST)
            signature = (*signature, directory.is_in_use(self.path))
            if signature == self._signature and self._seen is not None:
                break
            self._signature = signature
            self._seen = self._read_run()
        seen = self._seen
        assert seen is not None
        if seen is not before and seen.document:
            events["run"] = json_text(seen.document)
        events["progress"] = json_text(self._progress(seen))
        return events

    def heavy_is_due(self) -> bool:
        """Return True if there is a newer checkpoint and CPU time left to read or evaluate it."""
        over = self.state not in ("running", "removed", "damaged")
        found = _signature(self.path, *self._wanted(over))
        if not any(found):
            return False
        if over:  # nothing is trained any more, so the final page needs no budget
            return found != self._evaluated
        return (found != self._read and self._weights.is_free) or (
            found != self._evaluated and self._evaluations.is_free
        )

    def heavy(self) -> Events:
        """Return event ``contents``, all of a page, if CPU time is left for it; else ``weights``."""
        over = self.state not in ("running", "removed", "damaged")
        began = time.thread_time()
        names = self._wanted(over)
        found = _signature(self.path, *names)
        name = next((name for name, each in zip(names, found, strict=True) if each), None)
        if name is None:
            return {}
        evaluate = over or self._evaluations.is_free
        self._read = found  # set first: an unreadable checkpoint is not tried again and again
        if evaluate:
            self._evaluated = found
        try:
            file = self.path / name
            model = LoadedModel(file, self.path, checkpoints.read(file))
            if not evaluate:
                weights = base64(weights_of(model.checkpoint.parameters))
                return {"weights": json_text({"checkpoint": name_of(model), "weights": weights})}
            made = self._contents(model)
            page_data = {"document": made.document, "weights": base64(made.weights), "images": base64(made.images)}
            return {"contents": json_text(page_data)}
        except MlpcliError:
            return {}
        finally:
            (self._evaluations if evaluate else self._weights).spend(time.thread_time() - began)

    def _wanted(self, over: bool) -> tuple[str, ...]:
        """Return the checkpoints to show, by preference: the last; after training, those that a report shows."""
        names = ("best", "last") if over else ("last",)
        return tuple(f"{CHECKPOINTS}/{name}{checkpoints.SUFFIX}" for name in names)

    def _contents(self, model: LoadedModel) -> Contents:
        evaluated: EvaluatedRuns | None = None
        if self._images is None and self._no_images is None:
            try:
                self._images = load_default_images(model)
            except DataError:
                self._no_images = NO_IMAGES
        if self._images is not None:
            evaluated = evaluate_unrecorded(model, *self._images)
        return contents(model, evaluated, self._no_images)

    def _read_run(self) -> Seen:
        before = self._seen.document if self._seen else {}
        if not directory.is_run(self.path):
            return Seen(before, "removed")
        try:
            document = of_run(self.path)
        except MlpcliError:
            return Seen(before, "damaged" if directory.is_run(self.path) else "removed")
        return Seen(document, document["run"]["state"])

    def _progress(self, seen: Seen) -> Values:
        run = seen.document.get("run") or {}
        manifest = seen.document.get("manifest") or {}
        resumed = manifest.get("resumed") or []
        steps = self._read_steps()
        rate = (steps or {}).get("rate") if seen.state == "running" else None
        wanted = run.get("max_epochs")
        left = None
        if steps and rate and wanted:
            left = max(0.0, wanted * steps["steps_per_epoch"] - steps["step"]) / rate
        return {
            "state": seen.state,
            "resumed": resumed[-1]["epoch"] if resumed else None,
            "epochs": run.get("epochs"),
            "max_epochs": wanted,
            "along": steps["step"] / steps["steps_per_epoch"] if steps else None,
            "speed": steps["speed"] if steps and rate else None,
            "left": left,
            "points": steps["points"] if steps else None,
            **_commands(self.path),
            "resume": resume_command(self.path),
        }

    def _read_steps(self) -> Values | None:
        signature = _signature(self.path, STEPS)
        if signature == self._steps[0]:
            return self._steps[1]
        found = directory.read_steps(self.path)
        page_data = None
        if found is not None and found.lines:
            last, lines = found.lines[-1], _thinned(_smoothed(found.lines, found.steps_per_epoch / SMOOTH))
            recent = next(line for line in found.lines if line[1] >= last[1] - SPEED_SECONDS)
            if recent is last and len(found.lines) > 1:
                recent = found.lines[-2]
            page_data = {
                "steps_per_epoch": found.steps_per_epoch,
                "step": last[0],
                "rate": _rate(found.lines[0], last),
                "speed": (_rate(recent, last) or 0.0) * found.examples / found.steps_per_epoch or None,
                "points": [
                    [round(step / found.steps_per_epoch, 4) for step, _, _ in lines],
                    [float(f"{loss:.5g}") for _, _, loss in lines],
                ],
            }
        self._steps = signature, page_data
        return page_data


class RunsFeed:
    """Events of the runs in ``folder``; ``document`` is that of a page of them side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[Signature, Known, Values]] = {}
        self._numbers: dict[Path, int] = {}
        self._describer = Describer()

    def html(self) -> bytes:
        """Return the page of the runs that are there now."""
        return runs_page(self.document(), live=True)

    def light(self) -> Events:
        """Return event ``runs``: the document of a page, and the commands that show it again and write it to a file."""
        return {"runs": json_text({**self.document(), **_commands(self.folder)})}

    def state_may_differ(self) -> bool:
        """Return True if, since the last light read, a run was added or removed, or one that trained has ended."""
        with suppress(OSError):
            there = set(self.folder.iterdir())  # is_run() and is_in_use() of each of a thousand runs take too long
            return (
                any(directory.is_run(path) for path in there - self._known.keys())
                or bool(self._known.keys() - there)
                or any(each[0][-1] and not directory.is_in_use(path) for path, each in self._known.items())
            )
        return False

    def document(self) -> Values:
        """Return the runs side by side, each with the address of its own page."""
        known = self._read(self._paths())
        return side_by_side(
            [run for _, run, _ in known], names_of([self.folder])[0], lambda run: self._known[run.summary.path][2]
        )

    def others(self, than: Path) -> Events:
        """Return event ``others``: the newest runs other than ``than``, with their curves."""
        beside = [path for path in self._paths() if path.name != than.name]
        newest = sorted(beside, key=_began, reverse=True)[:MOST_OTHERS]
        known = self._read(newest)
        names = names_of([path for path in newest if path in self._known])
        page_data = [{"name": name, **values} for name, (_, _, values) in zip(names, known, strict=True)]
        return {"others": json_text(page_data)}

    def run_at(self, number: int) -> Path | None:
        """Return the run of that number; None if there is none."""
        return next((path for path, each in self._numbers.items() if each == number), None)

    def _paths(self) -> list[Path]:
        with suppress(OSError):
            return sorted(path for path in self.folder.iterdir() if directory.is_run(path))
        return []

    def _read(self, paths: list[Path]) -> list[tuple[Signature, Known, Values]]:
        for path in self._known.keys() - set(paths):
            if not directory.is_run(path):
                del self._known[path]
        for path in paths:
            signature = (*_signature(path, CONFIG, MANIFEST, METRICS), directory.is_in_use(path))
            if path in self._known and self._known[path][0] == signature:
                continue
            run = Known(*try_to_read(path))
            number = self._numbers.setdefault(path, len(self._numbers) + 1)
            self._known[path] = signature, run, {**self._describer(run), "link": f"run/{number}/"}
        return [self._known[path] for path in paths]


class OneOfMany:
    """Events of a run's page: those of the run, and of the runs in the same folder."""

    def __init__(self, run: RunFeed, beside: RunsFeed, cores: int) -> None:
        self.run = run
        self._beside = beside
        self._budget = Budget(cores)

    def html(self) -> bytes:
        """Return the page of the run."""
        return self.run.html()

    def state_may_differ(self) -> bool:
        """Return True if the run's state may have changed since the last light read."""
        return self.run.state_may_differ()

    def light(self) -> Events:
        """Return the events of the run, and at intervals those of the other runs."""
        events = self.run.light()
        if self._budget.is_free:
            began = time.thread_time()
            events.update(self._beside.others(self.run.path))
            self._budget.spend(max(0.004, time.thread_time() - began))
        return events


def _commands(path: Path) -> Values:
    """Return the commands that write the page of ``path`` to a file, and that serve it again."""
    name = quoted(path)
    return {"report": f"mlpcli report {name}", "watch": f"mlpcli watch {name}"}


def _rate(first: Line, last: Line) -> float | None:
    """Return the steps per second between two lines; None if no time has passed between them."""
    seconds = last[1] - first[1]
    return (last[0] - first[0]) / seconds if seconds > 0 else None


def _smoothed(lines: list[Line], steps: float) -> list[Line]:
    """Return ``lines`` with the loss of each averaged over the ``steps`` steps before it."""
    counts = [after[0] - before[0] for before, after in pairwise(lines)]
    counts.insert(0, counts[0] if counts else 1)
    smoothed, first, total, weight = [], 0, 0.0, 0
    for (step, seconds, loss), count in zip(lines, counts, strict=True):
        total, weight = total + loss * count, weight + count
        while weight - counts[first] >= max(steps, 1):
            total, weight, first = total - lines[first][2] * counts[first], weight - counts[first], first + 1
        smoothed.append((step, seconds, total / weight))
    return smoothed


def _thinned(lines: list[Line]) -> list[Line]:
    """Select at most ``MOST_POINTS`` + 1 of ``lines``, evenly, with the last among them."""
    step = -(-len(lines) // MOST_POINTS)
    return lines[(len(lines) - 1) % step :: step]


def _signature(run: Path, *names: str) -> Signature:
    """Return the time, size and inode of each of the files ``names``; None for a missing one."""
    found: list[tuple[int, int, int] | None] = []
    for name in names:
        try:
            there = (run / name).lstat()
            found.append((there.st_mtime_ns, there.st_size, there.st_ino))
        except (OSError, ValueError):
            found.append(None)
    return tuple(found)


def _presence(run: Path) -> Signature:
    """Return whether ``run`` is there, whether a process trains it, and the version of its manifest.

    The manifest is written only where training begins and ends. It shows a process that did both between two calls.
    """
    return directory.is_run(run), directory.is_in_use(run), _signature(run, MANIFEST)


def _began(run: Path) -> float:
    with suppress(OSError):
        return (run / CONFIG).lstat().st_mtime
    return 0.0
