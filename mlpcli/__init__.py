"""mlpcli trains a multilayer perceptron on MNIST from one YAML file.

import mlpcli

run = mlpcli.train("quickstart")            # a shipped config, a file, or a Config
print(run.test_error)                       # a fraction of the test images
outputs = mlpcli.load(run).predict(images)  # (N, 28, 28), uint8 or floats from 0 to 1
print(outputs.predicted, outputs.p)         # the classes (N,), the probabilities (N, 10)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "1.0.0"

if TYPE_CHECKING:
    from mlpcli.analysis.predict import Model as Model
    from mlpcli.analysis.predict import load as load
    from mlpcli.analysis.predictions import read_images as read_images
    from mlpcli.config import Config as Config
    from mlpcli.config import load as load_config
    from mlpcli.errors import MlpcliError as MlpcliError
    from mlpcli.experiment import Observer as Observer
    from mlpcli.experiment import Run as Run
    from mlpcli.experiment import resume as resume
    from mlpcli.experiment import train as train

# Loaded when first asked for: `import mlpcli` and `mlpcli --help` need no numpy.
_LAZY = {
    "Config": ("mlpcli.config", "Config"),
    "load_config": ("mlpcli.config", "load"),
    "Model": ("mlpcli.analysis.predict", "Model"),
    "load": ("mlpcli.analysis.predict", "load"),
    "read_images": ("mlpcli.analysis.predictions", "read_images"),
    "MlpcliError": ("mlpcli.errors", "MlpcliError"),
    "Observer": ("mlpcli.experiment", "Observer"),
    "Run": ("mlpcli.experiment", "Run"),
    "resume": ("mlpcli.experiment", "resume"),
    "train": ("mlpcli.experiment", "train"),
}

__all__ = [
    "Config",
    "MlpcliError",
    "Model",
    "Observer",
    "Run",
    "load",
    "load_config",
    "read_images",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mlpcli' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
