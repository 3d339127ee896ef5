"""The images and labels of a check."""

from __future__ import annotations

from mlpcli.config import DataConfig
from mlpcli.datasets.load import load_dataset
from mlpcli.gradcheck import check
from mlpcli.gradcheck.check import EXAMPLES


def test_chosen_images_leave_few_pixels_zero():
    images = load_dataset(DataConfig(dataset="mnist-sample", test=False)).train.images[: check.CANDIDATES]
    chosen = check._brightest(images)
    assert len(set(chosen)) == EXAMPLES
    nonzero = (images[chosen] > 0).any(axis=0).sum()
    assert nonzero > 1.3 * (images[:EXAMPLES] > 0).any(axis=0).sum()
    assert check._brightest(images[:2]) in ([0, 1], [1, 0])
