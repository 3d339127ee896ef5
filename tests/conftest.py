"""Fixtures for all tests: a data set of a few images as a folder of IDX files, a config for it, and a browser."""

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

# No test depends on time, as machines may be slow.
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
def _restore_signals() -> Iterator[None]:
    """Restore signal handlers: a command ignores signals at its end, and later tests would inherit that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the real browser ``BROWSER`` without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_images() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return 70 training images (5, 4) of three classes, labels, 30 test images, labels; noisy, but learnable."""
    random = np.random.default_rng(3)
    prototypes = random.integers(0, 256, (3, 5, 4))
    labels = random.integers(0, 3, 100).astype(np.uint8)
    labels[:3] = 0, 1, 2
    images = np.clip(prototypes[labels] + random.normal(0, 150, (100, 5, 4)), 0, 255).astype(np.uint8)
    return images[:70], labels[:70], images[70:], labels[70:]


@pytest.fixture
def tiny_folder(tmp_path: Path, tiny_images: tuple[np.ndarray, ...]) -> Path:
    """Write the tiny data set as the folder ``tmp_path/tiny``, for ``data.dataset``."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for role, array in zip(ROLES, tiny_images, strict=True):
        (folder / FILE_NAMES[role]).write_bytes(idx.encode(array))
    return folder


@pytest.fixture
def tiny_config(tiny_folder: Path) -> Callable[..., Config]:
    """Return a function that makes a config for the tiny data set: ``tiny_config("training.epochs=5", ...)``."""
    few = ("network.hidden=[6]", "training.epochs=3", "training.batch_size=16", f'data.dataset="{tiny_folder}"')
    return lambda *overrides: config.load(None, (*few, *NO_DEFAULTS, *overrides), {})
