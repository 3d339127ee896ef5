"""Evaluation of runs on a split of the images, recorded in the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlpcli.analysis import evaluation
from mlpcli.analysis.evaluation import Evaluation, LoadedModel, Outputs
from mlpcli.config import DataConfig
from mlpcli.datasets.download import Progress, Say, silent
from mlpcli.datasets.foreign import announcement
from mlpcli.datasets.load import Part, SplitName, load_split
from mlpcli.errors import RunError, UsageError, shown
from mlpcli.runs import directory
from mlpcli.runs.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class EvaluatedRuns:
    """Evaluated ``models``: the result of each on ``split`` of ``part``, and the outputs of their ensemble.

    All are means over each image and its ``shifts`` shifts. The ensemble of a single model is the model. Measure it by
    :func:`mlpcli.analysis.evaluation.evaluate`.
    """

    models: tuple[LoadedModel, ...]
    part: Part
    split: SplitName
    individual: tuple[Evaluation, ...]
    ensemble: Outputs
    shifts: int = 0


def evaluate_runs(
    paths: Sequence[Path],
    split: SplitName | None,
    *,
    dataset: str | None = None,
    folder: str | None = None,
    sources: tuple[str, ...] = (),
    offline: bool = False,
    shifts: int = 0,
    say: Say = silent,
    progress: Progress | None = None,
) -> EvaluatedRuns:
    """Evaluate the runs or checkpoints ``paths`` on ``split`` of their training data set, or of ``dataset``.

    ``split`` None is validation, or train if no images were held out: the test images are used only if asked for. Every
    evaluation is appended to evaluations.jsonl of each run; ``say`` receives a message if that fails. Probabilities are
    averaged over each image and its ``shifts`` one-pixel shifts: none, 4 or 8. The other
    arguments are those of :func:`mlpcli.analysis.evaluation.data_for`. Raises ``UsageError`` for models that cannot
    form an ensemble or be averaged, or for sources with ``offline``; ``DataError`` and ``RunError``.
    """
    if offline and sources:
        raise UsageError("--offline fetches nothing: leave out --source")
    models = tuple(evaluation.open_model(path) for path in paths)
    first = models[0].checkpoint
    if split is None:
        split = default_split(first.config.data)
    evaluation.check_average(models, shifts)
    evaluation.check_same_images(models, split, dataset)
    data = evaluation.data_for(first, dataset=dataset, folder=folder, sources=sources, offline=offline)
    if announced := announcement(data):
        say(announced)
    part = images_for(first, data, split, whole=dataset is not None, say=say, progress=progress)
    if changed := evaluation.changed_files(first, part):
        say(f"{shown(part.name)}: not the files it was trained on: the SHA-256 of {', '.join(changed)} differs")
    labels = part.split.labels
    outputs = [evaluation.averaged_outputs(model, part.split, shifts) for model in models]
    individual = tuple(evaluation.evaluate(each, labels) for each in outputs)
    ensemble = evaluation.ensemble_outputs(outputs, labels)
    together = evaluation.evaluate(ensemble, labels) if len(models) > 1 else None
    for model, result in zip(models, individual, strict=True):
        if model.run is not None:
            try:
                line = evaluation.evaluation_record(model, result, part, split, together, shifts)
                directory.append_evaluation(model.run, line)
            except RunError as error:
                say(f"mlpcli: this evaluation is not recorded: {error}")
    return EvaluatedRuns(models, part, split, individual, ensemble, shifts)


def evaluate_unrecorded(model: LoadedModel, part: Part, split: SplitName) -> EvaluatedRuns:
    """Evaluate ``model`` on ``split`` of ``part`` without a record, for an evaluation that is repeated.

    Raises ``RunError`` when its outputs are not finite numbers.
    """
    outputs = evaluation.outputs(model, part.split)
    return EvaluatedRuns((model,), part, split, (evaluation.evaluate(outputs, part.split.labels),), outputs)


def load_default_images(model: LoadedModel) -> tuple[Part, SplitName]:
    """Load the images that ``model`` held out of its training, or else its training images, without any download.

    Raises ``DataError`` if they are missing or do not fit.
    """
    checkpoint = model.checkpoint
    split = default_split(checkpoint.config.data)
    return images_for(checkpoint, evaluation.data_for(checkpoint, offline=True), split), split


def images_for(
    checkpoint: Checkpoint,
    data: DataConfig,
    split: SplitName,
    *,
    whole: bool = False,
    say: Say = silent,
    progress: Progress | None = None,
) -> Part:
    """Load ``split`` of ``data`` as the network of ``checkpoint`` held it out, with labels that are its classes.

    With ``whole`` a data set with a single split is used as a whole. Raises ``DataError`` if the images are missing or
    do not fit the network.
    """
    part = load_split(
        data,
        split,
        checkpoint.config.seed,
        classes=checkpoint.class_names or checkpoint.classes,
        labels=checkpoint.labels,
        whole=whole,
        say=say,
        progress=progress,
    )
    evaluation.check_fit(checkpoint, part)
    return part


def default_split(data: DataConfig) -> SplitName:
    """Return the split to evaluate on while choices are still made: validation, or train if there is none."""
    return "validation" if data.validation else "train"
