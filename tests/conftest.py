"""Fixtures of several packages' tests: a data set of a few images as a folder of IDX files, and a config for it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# With two test processes on two cores, BLAS threads that wait for each other would take most of the time. Set before
# numpy is loaded, and for the programs that the tests start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

from mlpcli import config
from mlpcli.config import Config
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES, ROLES

# A machine may be slow: no test is about time.
settings.register_profile("mlpcli", deadline=None)
settings.load_profile("mlpcli")


# The defaults are chosen for MNIST and may change: a test on a few images does not depend on them.
NO_DEFAULTS = (
    "network.initialization=glorot",
    "training.optimizer=nesterov",
    "training.learning_rate=0.2",
    "training.warmup_epochs=0",
    "training.l2=5e-5",
)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """A command that has ended ignores signals, as will what a later test starts."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser, ``BROWSER``, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_images() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images (70, 5, 4) of three classes, their labels, 30 test images, their labels; hard, but learnable."""
    random = np.random.default_rng(3)
    prototypes = random.integers(0, 256, (3, 5, 4))
    labels = random.integers(0, 3, 100).astype(np.uint8)
    labels[:3] = 0, 1, 2
    images = np.clip(prototypes[labels] + random.normal(0, 150, (100, 5, 4)), 0, 255).astype(np.uint8)
    return images[:70], labels[:70], images[70:], labels[70:]


@pytest.fixture
def tiny_folder(tmp_path: Path, tiny_images: tuple[np.ndarray, ...]) -> Path:
    """``tmp_path/tiny``: the tiny data set as a folder that ``data.dataset`` can name."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for role, array in zip(ROLES, tiny_images, strict=True):
        (folder / FILE_NAMES[role]).write_bytes(idx.encode(array))
    return folder


@pytest.fixture
def tiny_config(tiny_folder: Path) -> Callable[..., Config]:
    """Makes a config that trains on the tiny data set in a moment: ``tiny_config("training.epochs=5", ...)``."""
    few = ("network.hidden=[6]", "training.epochs=3", "training.batch_size=16", f'data.dataset="{tiny_folder}"')
    return lambda *overrides: config.load(None, (*few, *NO_DEFAULTS, *overrides), {})
