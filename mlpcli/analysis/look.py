"""One look: trained networks held against a split of the images, which is written down in their runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlpcli.analysis import evaluation
from mlpcli.analysis.evaluation import Evaluation, Member, Outputs
from mlpcli.config import DataConfig
from mlpcli.datasets.download import Progress, Say, silent
from mlpcli.datasets.foreign import announcement
from mlpcli.datasets.load import Part, SplitName, load_split
from mlpcli.errors import RunError, UsageError, shown
from mlpcli.runs import directory


@dataclass(frozen=True, eq=False)
class Look:
    """What ``members`` make of ``split`` of ``part``: the result of each alone, and what they say as a committee.

    A single member's committee is itself; :func:`mlpcli.analysis.evaluation.evaluate` measures ``together``.
    """

    members: tuple[Member, ...]
    part: Part
    split: SplitName
    alone: tuple[Evaluation, ...]
    together: Outputs


def look(
    paths: Sequence[Path],
    split: SplitName | None,
    *,
    dataset: str | None = None,
    folder: str | None = None,
    sources: tuple[str, ...] = (),
    offline: bool = False,
    say: Say = silent,
    progress: Progress | None = None,
) -> Look:
    """Hold the runs or checkpoints ``paths`` against ``split`` of the data they were trained on, or of ``dataset``.

    ``split`` None is validation, or train where no images were held out: the test images are looked at when they are
    asked for. Every look goes to evaluations.jsonl of each run; that it can't be written there is said. The other
    arguments are those of :func:`mlpcli.analysis.evaluation.data_for`. Raises ``UsageError`` for a committee that makes
    no sense, or for sources with ``offline``; ``DataError`` and ``RunError``.
    """
    if offline and sources:
        raise UsageError("--offline fetches nothing, so --source has no use with it")
    members = tuple(evaluation.open_member(path) for path in paths)
    first = members[0].checkpoint
    if split is None:
        split = held_out(first.config.data)
    evaluation.check_committee(members, split, dataset)
    data = evaluation.data_for(first, dataset=dataset, folder=folder, sources=sources, offline=offline)
    if announced := announcement(data):
        say(announced)
    part = load_split(
        data,
        split,
        first.config.seed,
        classes=first.class_names or first.classes,
        whole=dataset is not None,
        say=say,
        progress=progress,
    )
    evaluation.check_fit(first, part)
    if changed := evaluation.changed_files(first, part):
        say(f"{shown(part.name)}: not the files it was trained on: the SHA-256 of {', '.join(changed)} differs")
    labels = part.split.labels
    said = [evaluation.outputs(member, part.split) for member in members]
    alone = tuple(evaluation.evaluate(each, labels) for each in said)
    for member, result in zip(members, alone, strict=True):
        if member.run is not None:
            try:
                line = evaluation.record_of(member, result, part, split, len(members) > 1)
                directory.append_evaluation(member.run, line)
            except RunError as error:
                say(f"mlpcli: this look is not recorded: {error}")
    return Look(members, part, split, alone, evaluation.committee(said, labels))


def look_again(member: Member, part: Part, split: SplitName) -> Look:
    """What ``member`` makes of ``split`` of ``part``, which it was held against before: it is written down nowhere.

    Raises ``RunError`` when its outputs are no finite numbers.
    """
    said = evaluation.outputs(member, part.split)
    return Look((member,), part, split, (evaluation.evaluate(said, part.split.labels),), said)


def held_out_images(member: Member) -> tuple[Part, SplitName]:
    """The images that ``member`` held out of its training, or else those of its training, from the disk alone.

    Raises ``DataError`` where they are not to be had or do not fit.
    """
    checkpoint = member.checkpoint
    split = held_out(checkpoint.config.data)
    data = evaluation.data_for(checkpoint, offline=True)
    part = load_split(
        data, split, checkpoint.config.seed, classes=checkpoint.class_names or checkpoint.classes, whole=False
    )
    evaluation.check_fit(checkpoint, part)
    return part, split


def held_out(data: DataConfig) -> SplitName:
    """The split to look at while choices are still being made: validation, or train where there is none."""
    return "validation" if data.validation else "train"
