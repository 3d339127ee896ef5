"""A contact sheet of training images: from the file, and as the network receives them in a few epochs.

I images of h x w pixels, E epochs.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlpcli.analysis.plots import INK, MAX_PIXELS_PER_SIDE, render
from mlpcli.config import AugmentationConfig, Config
from mlpcli.datasets.classes import in_words
from mlpcli.datasets.deskew import preprocessed
from mlpcli.datasets.download import Progress, Say, silent
from mlpcli.datasets.load import Bytes, Part, load_split
from mlpcli.errors import UsageError
from mlpcli.training.augment import Augmentation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 4
INCHES = 0.9  # an image's longer side
MIN_INCHES = 4.5  # the picture's width
MAX_PER_ROW = 8  # images per row if there are only originals


@dataclass(frozen=True, eq=False)
class Sheet:
    """A table of images; row i shows training image ``numbers[i]`` of class ``labels[i]``: ``rows[i]`` (C, h, w).

    ``heads`` (C) are the titles of the columns: first the file's image, then the image after ``data.preprocessing``, if
    any, then one column per epoch. ``name`` is the data set's, ``examples`` the number of all training images, and
    ``settings`` describes what the config does to them.
    """

    name: str
    examples: int
    settings: str
    heads: tuple[str, ...]
    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    rows: Bytes

    @property
    def lines(self) -> list[list[tuple[str, Bytes]]]:
        """Return the rows as captions and images (h, w); a single row if there are only originals."""
        rows = [
            [(f"image {number}: {label}", row[0]), *zip(self.heads[1:], row[1:], strict=True)]
            for number, label, row in zip(self.numbers, self.labels, self.rows, strict=True)
        ]
        return rows if len(self.heads) > 1 else [[each for row in rows for each in row]]

    @property
    def title(self) -> str:
        """Describe the images and the settings."""
        return f"{self.name}, {self.examples:,} training images: {self.settings}"

    def render(self, form: str) -> bytes:
        """Return the bytes of a picture of it; ``form`` is png or svg. Raises ``UsageError`` without matplotlib."""
        return render(partial(_draw, made=self), form, self.title)


def sheet(
    config: Config,
    *,
    images: int = IMAGES,
    numbers: Sequence[int] = (),
    label: str | None = None,
    epochs: Sequence[int] = (),
    say: Say = silent,
    progress: Progress | None = None,
) -> Sheet:
    """Make the sheet of the network's inputs in training with ``config``, bit-identical to those of training.

    The images are the training images ``numbers``, counted from 0 without those held out for validation; else the first
    ``images``, of class ``label`` if given. ``epochs`` are from 1 to those of the config; without any, the first few
    and the last. Raises ``UsageError`` for images or epochs that do not exist, and as ``load_dataset`` does.
    """
    preprocessing, augmentation, last = config.data.preprocessing, config.augmentation, config.training.epochs
    if epochs and augmentation is None:
        raise UsageError(
            "--epoch shows an epoch's distortions, and the config has none: --set augmentation.rotation=10"
        )
    for epoch in epochs:
        if not 1 <= epoch <= last:
            raise UsageError(f"--epoch {epoch}: the config trains for {last}; --set training.epochs={epoch}")
    part = load_split(config.data, "train", config.seed, say=say, progress=progress)
    chosen = _chosen(part, images, numbers, label)
    original = part.split.images[chosen]
    columns, heads = [original], ["original"]
    if preprocessing:
        columns.append(preprocessed(original, part.image_shape, preprocessing))
        heads.append(f"{preprocessing}ed")
    if augmentation is not None:
        first = 4 - len(columns)  # five columns fit into 80 characters
        epochs = epochs or sorted({*range(1, min(first, last) + 1), last})
        distorting = Augmentation(
            augmentation, part.image_shape, len(part.split), last, config.seed, config.network.dtype
        )
        X, input_images = np.empty(original.shape, config.network.dtype), columns[-1]
        for epoch in epochs:
            distorting.begin(epoch)
            columns.append(np.rint(distorting.distort(input_images, chosen, X)).astype(np.uint8))
            heads.append(f"epoch {epoch}")
    return Sheet(
        name=part.name,
        examples=len(part.split),
        settings="; ".join([*heads[1 : 1 + bool(preprocessing)], _in_words(augmentation, last)]),
        heads=tuple(heads),
        numbers=tuple(chosen.tolist()),
        labels=tuple(in_words(each, part.class_names) for each in part.split.labels[chosen]),
        rows=np.stack(columns, axis=1).reshape(len(chosen), len(columns), *part.image_shape),
    )


def _chosen(part: Part, images: int, numbers: Sequence[int], label: str | None) -> NDArray[np.intp]:
    examples = len(part.split)
    if numbers:
        for number in numbers:
            if not 0 <= number < examples:
                raise UsageError(f"--index {number}: {part.name} has the training images 0 to {examples - 1}")
        return np.array(numbers, np.intp)
    if label is None:
        return np.arange(min(images, examples))
    places = [place for place, name in enumerate(part.class_names) if name == label]
    labels = part.split.labels
    shows = labels[:, places].any(axis=1) if part.split.multi_label else np.isin(labels, places)
    found = np.flatnonzero(shows)[:images]
    if not len(found):
        raise UsageError(f"--class {label}: no training image of {part.name} has that label")
    return found


def _in_words(augmentation: AugmentationConfig | None, epochs: int) -> str:
    """Return the section's keys that have an effect, such as 'rotation 15, elastic_alpha 34, elastic_sigma 4'."""
    if augmentation is None:
        return "no distortions"
    values = asdict(augmentation)
    strength, final = values.pop("final_strength"), values.pop("final_epochs")
    if not augmentation.elastic_alpha:
        del values["elastic_sigma"]
    words = ", ".join(f"{key} {value:g}" for key, value in values.items() if value)
    if final:
        words += f"; times {strength:g} from epoch {epochs - final + 1} of {epochs} on"
    return words


def _draw(figure: Figure, made: Sheet) -> None:
    """Draw the sheet: each image below its caption, in a thin frame that shows where it is cut off."""
    from matplotlib.patches import Rectangle

    step = math.ceil(max(made.rows.shape[2:]) / MAX_PIXELS_PER_SIDE)
    h, w = made.rows[0, 0, ::step, ::step].shape
    gap, head = (max(1, round(share * max(h, w))) for share in (0.07, 0.2))
    column = max(w, round(0.75 * h)) + gap  # wide enough for a caption
    across = max(map(len, made.lines)) if len(made.lines) > 1 else MAX_PER_ROW
    cells = [line[start : start + across] for line in made.lines for start in range(0, len(line), across)]
    picture = np.full((len(cells) * (h + head) + 1, max(map(len, cells)) * column), np.nan)
    axes = figure.subplots()
    for i, cell in enumerate(cells):
        for j, (caption, image) in enumerate(cell):
            top, left = i * (h + head) + head, j * column
            picture[top : top + h, left : left + w] = image[::step, ::step]
            corner = (left - 0.5, top - 0.5)
            axes.add_patch(Rectangle(corner, w, h, fill=False, edgecolor="#999999", linewidth=0.5))
            axes.text(left - 0.5, top - 0.5 - 0.1 * head, caption, ha="left", va="bottom", size=7)
    axes.imshow(np.ma.masked_invalid(picture), INK, vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    pixel = INCHES / max(h, w)
    figure.set_size_inches(max(MIN_INCHES, pixel * picture.shape[1] + 0.4), pixel * picture.shape[0] + 0.8)
    figure.suptitle(textwrap.fill(made.title, 12 * round(figure.get_size_inches()[0])))
