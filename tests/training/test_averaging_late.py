"""The average that training keeps, once it forgets: against the recursion, from the parameters after each step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mlpcli.config import Config
from mlpcli.datasets.load import load_dataset
from mlpcli.training.trainer import Trainer


@pytest.mark.parametrize("decay", [0.5, 0.8])
def test_training_averages_with_its_decay(tiny_config: Callable[..., Config], decay: float) -> None:
    # An epoch of one step: theta is seen after each.
    config = tiny_config(
        "training.batch_size=100", "training.epochs=40", f"training.averaging={decay}", "network.dtype=float64"
    )
    trainer = Trainer(config, load_dataset(config.data))
    expected = np.zeros_like(trainer.state.theta.vector)
    assert trainer.steps_per_epoch == 1
    for step, _ in enumerate(trainer.epochs(), start=1):
        # The plain mean first, which (n - 1) / n makes; then the decay is less.
        d = min(decay, (step - 1) / step)
        expected = d * expected + (1 - d) * trainer.state.theta.vector
        assert trainer.state.average is not None
        np.testing.assert_allclose(trainer.state.average.vector, expected, rtol=1e-12, atol=1e-15)
