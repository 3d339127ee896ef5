"""A network with all that its parameters are for: its config, and the images and classes it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mlpcli.config import Config
from mlpcli.model.build import Architecture
from mlpcli.state import State
from mlpcli.training.targets import Targets, targets_of


@dataclass(frozen=True)
class ConfiguredNetwork:
    """The network of ``config`` with parameters ``theta`` (n,), whose source ``words`` names.

    It takes images of ``image_shape`` (rows, columns) with labels of ``class_names``, the names in order; with
    ``multi_label`` an image may have several. A trained network has a ``state`` and the file ``checkpoint``.
    """

    config: Config
    architecture: Architecture
    image_shape: tuple[int, int]
    class_names: tuple[str, ...]
    multi_label: bool
    theta: NDArray[Any]
    words: str
    checkpoint: Path | None = None
    state: State | None = None

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @property
    def targets(self) -> Targets:
        """Return the targets for labels."""
        return targets_of(self.config, self.classes, self.multi_label)
