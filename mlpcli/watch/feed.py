"""Events of a live page: JSON by kind, read from run directories.

A light read checks the files' times and reads the files that changed; it runs twice a second. A heavy read opens a
checkpoint and evaluates it on the validation images. Its CPU time is on a budget: training must not pay for it.
"""

from __future__ import annotations

import math
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlpcli.analysis.evaluation import Member
from mlpcli.analysis.look import Look, held_out_images, look_again
from mlpcli.analysis.report.contents import Contents, contents, name_of, of_run, waiting, weights_of
from mlpcli.analysis.report.page import base64, json_text, page, runs_page
from mlpcli.analysis.report.side_by_side import Describer, names_of, side_by_side
from mlpcli.datasets.load import Part, SplitName
from mlpcli.errors import DataError, MlpcliError
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.layout import CHECKPOINTS, CONFIG, MANIFEST, METRICS, STEPS, TEST, resume_command
from mlpcli.runs.ranking import Known
from mlpcli.runs.steps import Line
from mlpcli.runs.summary import try_to_read

# The fraction of all CPU time that reading checkpoints may take; evaluation may take as much again.
SHARE = 0.003
MOST_POINTS = 400  # of the losses of steps
SMOOTH = 50  # of an epoch, the part over which the loss is averaged
SPEED_SECONDS = 10.0  # over which the speed is taken
MOST_OTHERS = 40
NOT_YET = "No epoch is completed, so there is no network to show."
NO_IMAGES = "The images could not be had where this page is made."

Values = dict[str, Any]
Events = dict[str, str]  # JSON, by kind
Signature = tuple[Any, ...]


class Budget:
    """A limit on CPU time, as a fraction of the machine's."""

    def __init__(self, cores: int, share: float = SHARE) -> None:
        self._per_second = cores * share
        self._free = -math.inf

    @property
    def is_free(self) -> bool:
        """True once enough time has passed for the CPU seconds spent."""
        return time.monotonic() >= self._free

    def spend(self, seconds: float) -> None:
        """Note that ``seconds`` of CPU time were used."""
        self._free = time.monotonic() + seconds / self._per_second


@dataclass(frozen=True)
class Seen:
    """The newest values read of a run: its part of a document, and its state."""

    document: Values
    state: str


class RunFeed:
    """The events of the run ``path``. One thread may read light and another heavy at the same time."""

    def __init__(self, path: Path, cores: int) -> None:
        self.path = path
        self.title = ""
        self._signature: Signature = ()
        self._seen: Seen | None = None
        self._steps: tuple[Signature, Values | None] = ((), None)
        self._weights, self._looks = Budget(cores), Budget(cores)
        self._read: Signature = ()  # of the checkpoint whose weights were sent
        self._looked: Signature = ()  # of the one that was evaluated
        self._images: tuple[Part, SplitName] | None = None
        self._no_images: str | None = None

    def html(self) -> bytes:
        """Return the page without a checkpoint. Raises ``RunError`` or ``ConfigError``."""
        return page(waiting(self.path, NOT_YET), live=True)

    @property
    def state(self) -> str:
        """The run's: running, finished, interrupted, diverged, damaged or removed."""
        return self._seen.state if self._seen else "running"

    def light(self) -> Events:
        """Events ``run``, where its files have changed, and ``progress``."""
        events: Events = {}
        before = self._seen
        for _ in range(3):  # what is read while the files change is read again
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
        if over:  # nobody trains: what is shown in the end is shown at once
            return found != self._looked
        return (found != self._read and self._weights.is_free) or (found != self._looked and self._looks.is_free)

    def heavy(self) -> Events:
        """Event ``contents``, all of a page, where there is time for it; else ``weights``."""
        over = self.state not in ("running", "removed", "damaged")
        began = time.thread_time()
        names = self._wanted(over)
        found = _signature(self.path, *names)
        name = next((name for name, each in zip(names, found, strict=True) if each), None)
        if name is None:
            return {}
        look = over or self._looks.is_free
        self._read = found  # whatever comes of it: what cannot be read is not tried again and again
        if look:
            self._looked = found
        try:
            file = self.path / name
            member = Member(file, self.path, checkpoints.read(file))
            if not look:
                weights = base64(weights_of(member.checkpoint.parameters))
                return {"weights": json_text({"checkpoint": name_of(member), "weights": weights})}
            made = self._contents(member)
            told = {"document": made.document, "weights": base64(made.weights), "images": base64(made.images)}
            return {"contents": json_text(told)}
        except MlpcliError:
            return {}
        finally:
            (self._looks if look else self._weights).spend(time.thread_time() - began)

    def _wanted(self, over: bool) -> tuple[str, ...]:
        """The checkpoints to show, the first that is there: the newest, in the end that which a report shows."""
        names = ("best", "last") if over else ("last",)
        return tuple(f"{CHECKPOINTS}/{name}{checkpoints.SUFFIX}" for name in names)

    def _contents(self, member: Member) -> Contents:
        look: Look | None = None
        if self._images is None and self._no_images is None:
            try:
                self._images = held_out_images(member)
            except DataError:
                self._no_images = NO_IMAGES
        if self._images is not None:
            look = look_again(member, *self._images)
        return contents(member, look, self._no_images)

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
        told = None
        if found is not None and found.lines:
            last, lines = found.lines[-1], _thinned(_smoothed(found.lines, found.steps_per_epoch / SMOOTH))
            recent = next(line for line in found.lines if line[1] >= last[1] - SPEED_SECONDS)
            if recent is last and len(found.lines) > 1:
                recent = found.lines[-2]
            told = {
                "steps_per_epoch": found.steps_per_epoch,
                "step": last[0],
                "rate": _rate(found.lines[0], last),
                "speed": (_rate(recent, last) or 0.0) * found.examples / found.steps_per_epoch or None,
                "points": [
                    [round(step / found.steps_per_epoch, 4) for step, _, _ in lines],
                    [float(f"{loss:.5g}") for _, _, loss in lines],
                ],
            }
        self._steps = signature, told
        return told


class RunsFeed:
    """The events of the runs in ``folder``; ``document`` is the document of a page of them side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[Signature, Known, Values]] = {}
        self._numbers: dict[Path, int] = {}
        self._describer = Describer()

    def html(self) -> bytes:
        """The page of what is there now."""
        return runs_page(self.document(), live=True)

    def light(self) -> Events:
        """Return event ``runs``: the document of a page, and the commands that show it again and write it to a file."""
        return {"runs": json_text({**self.document(), **_commands(self.folder)})}

    def document(self) -> Values:
        """Runs side by side, each with the address of its own page."""
        known = self._read(self._paths())
        return side_by_side(
            [run for _, run, _ in known], names_of([self.folder])[0], lambda run: self._known[run.summary.path][2]
        )

    def others(self, than: Path) -> Events:
        """Event ``others``: the newest runs beside the one ``than``, with their curves."""
        beside = [path for path in self._paths() if path.name != than.name]
        newest = sorted(beside, key=_began, reverse=True)[:MOST_OTHERS]
        known = self._read(newest)
        names = names_of([path for path in newest if path in self._known])
        told = [{"name": name, **values} for name, (_, _, values) in zip(names, known, strict=True)]
        return {"others": json_text(told)}

    def run_at(self, number: int) -> Path | None:
        """The run of that number; None where there is none."""
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
    """The events of a run's page: the run itself, and the runs beside it."""

    def __init__(self, run: RunFeed, beside: RunsFeed, cores: int) -> None:
        self.run = run
        self._beside = beside
        self._budget = Budget(cores)

    def html(self) -> bytes:
        """The page of the run."""
        return self.run.html()

    def light(self) -> Events:
        """The events of the run, and now and then those of the runs beside it."""
        events = self.run.light()
        if self._budget.is_free:
            began = time.thread_time()
            events.update(self._beside.others(self.run.path))
            self._budget.spend(max(0.004, time.thread_time() - began))
        return events


def _commands(path: Path) -> Values:
    """Return the commands that write the page of ``path`` to a file, and that serve it again."""
    name = shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
    return {"report": f"mlpcli report {name}", "watch": f"mlpcli watch {name}"}


def _rate(first: Line, last: Line) -> float | None:
    """Steps a second between two lines; None where no time lies between them."""
    seconds = last[1] - first[1]
    return (last[0] - first[0]) / seconds if seconds > 0 else None


def _smoothed(lines: list[Line], steps: float) -> list[Line]:
    """``lines``, the loss of each the mean over those that reach back to ``steps`` steps before it."""
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
    """At most ``MOST_POINTS`` and one of ``lines``, evenly, the last among them."""
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


def _began(run: Path) -> float:
    with suppress(OSError):
        return (run / CONFIG).lstat().st_mtime
    return 0.0
