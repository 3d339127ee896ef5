"""The network that ``gradcheck`` and ``explain`` use: a config's initial one, or a checkpoint's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlpcli.errors import UsageError, shown

if TYPE_CHECKING:
    from mlpcli.config import Config, DataConfig
    from mlpcli.datasets.load import Part
    from mlpcli.model.build import Architecture
    from mlpcli.training.configured import ConfiguredNetwork


def find_network(
    what: str | None, overrides: tuple[str, ...], verb: str, dtype: str | None = None
) -> ConfiguredNetwork:
    """Return the network of a config, or of a checkpoint or run, which is ``verb`` ("checked").

    ``dtype`` is that of initial parameters; None: the config's. Raises ``UsageError`` if a checkpoint has overrides.
    """
    path = Path(what) if what is not None else None
    if path is not None and (path.is_dir() or path.suffix == ".npz"):
        if overrides:
            raise UsageError(f"{what}: --set is for configs; a checkpoint is {verb} unchanged")
        return _trained(path)

    from mlpcli import config as config_module

    return _initial(config_module.load(config_module.find(what) if what is not None else None, overrides), dtype)


def load_training_images(data: DataConfig, dataset: str) -> Part:
    """Load all training images of ``dataset``, without any download. Raises ``DataError``."""
    from mlpcli.datasets.load import load_split

    return load_split(replace(data, dataset=dataset, offline=True, fallback=None, validation=0.0), "train")


def _trained(path: Path) -> ConfiguredNetwork:
    from mlpcli.analysis.evaluation import open_model
    from mlpcli.state import architecture_of
    from mlpcli.training.configured import ConfiguredNetwork

    model = open_model(path)
    checkpoint = model.checkpoint
    return ConfiguredNetwork(
        config=checkpoint.config,
        architecture=architecture_of(checkpoint.config, math.prod(checkpoint.image_shape), checkpoint.classes),
        image_shape=checkpoint.image_shape,
        class_names=checkpoint.names,
        multi_label=checkpoint.multi_label,
        theta=checkpoint.parameters.vector,
        words=f"{shown(model.path)}, epoch {checkpoint.epoch}",
        checkpoint=model.path,
        state=checkpoint.state,
    )


def _initial(config: Config, dtype: str | None) -> ConfiguredNetwork:
    from mlpcli import config as config_module
    from mlpcli.datasets.catalogue import CATALOGUE, IMAGE_SHAPE
    from mlpcli.state import architecture_of
    from mlpcli.training.configured import ConfiguredNetwork
    from mlpcli.training.initial import draw_parameters
    from mlpcli.training.targets import check_targets

    entry = CATALOGUE.get(config.data.dataset)
    multi_label = False
    if entry is not None:
        image_shape, names = IMAGE_SHAPE, entry.class_names
        if config.network.single_output and config.network.objective != "linear_quadratic":
            names = ("0", "1")  # the numbers that its output can predict
    else:
        part = load_training_images(config.data, config.data.dataset)
        image_shape, names, multi_label = part.image_shape, part.class_names, part.split.multi_label
        check_targets(config, part.classes, part.split.labels, part.name)
    config_module.check_size(config, math.prod(image_shape), len(names), config_module.physical_memory())
    architecture = architecture_of(config, math.prod(image_shape), len(names))
    if config.network.init is not None:
        return _from_another(config, architecture, image_shape, names, multi_label)
    theta = draw_parameters(config, architecture, image_shape, dtype)
    words = f"initial weights of seed {config.seed}"
    return ConfiguredNetwork(config, architecture, image_shape, names, multi_label, theta.vector, words)


def _from_another(
    config: Config, architecture: Architecture, image_shape: tuple[int, int], names: tuple[str, ...], multi_label: bool
) -> ConfiguredNetwork:
    """Return the network that begins with the weights of ``network.init``."""
    from mlpcli.experiment import initial_parameters
    from mlpcli.state import State
    from mlpcli.training.configured import ConfiguredNetwork

    found = initial_parameters(config, image_shape, names, config.data.dataset)
    assert found is not None
    theta, origin, drawn = found
    words = f"initial weights of {origin}"
    if drawn:
        words += f", and of seed {config.seed} in layer{'s' * (len(drawn) > 1)} {', '.join(map(str, drawn))}"
    return ConfiguredNetwork(
        config, architecture, image_shape, names, multi_label, theta.vector, words, state=State(theta)
    )
