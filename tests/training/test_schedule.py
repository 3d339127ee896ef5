"""Each learning rate schedule at its corners."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import TrainingConfig
from mlpcli.training.schedule import learning_rate

SCHEDULES = ["constant", "cosine", "step"]


def rates(**values: Any) -> Callable[[int], float]:
    """Return the learning rate of a step, ten steps per epoch, with the peak 0.4."""
    config = TrainingConfig(**{"learning_rate": 0.4, "warmup_epochs": 0.0, **values})
    return lambda step: learning_rate(config, step, 10)


def test_constant_is_constant():
    at = rates(schedule="constant", epochs=3)
    assert [at(step) for step in range(30)] == [0.4] * 30


def test_cosine_at_the_first_the_middle_and_the_last_step():
    at = rates(schedule="cosine", epochs=4)
    assert at(0) == 0.4
    assert at(10) == pytest.approx(0.4 * (2 + math.sqrt(2)) / 4)  # cos(pi/4) = sqrt(2)/2
    assert at(20) == pytest.approx(0.2)
    assert at(39) == pytest.approx(0.4 * math.sin(math.pi / 80) ** 2)  # one step of forty before 0
    assert at(39) > 0


def test_step_falls_to_a_tenth_at_half_then_to_a_hundredth():
    at = rates(schedule="step", epochs=4)
    assert [at(0), at(19), at(20), at(29), at(30), at(39)] == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.004])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_rises_in_equal_steps(schedule: str):
    at = rates(schedule=schedule, epochs=10, warmup_epochs=2)
    assert [at(0), at(9), at(19), at(20)] == pytest.approx([0.4 / 21, 0.4 * 10 / 21, 0.4 * 20 / 21, 0.4])


def test_cosine_falls_over_what_warmup_leaves():
    assert rates(schedule="cosine", epochs=10, warmup_epochs=2)(60) == pytest.approx(0.2)


def test_warmup_may_take_part_of_an_epoch_or_all_epochs():
    part = rates(epochs=2, schedule="constant", warmup_epochs=0.25)
    assert [part(step) for step in range(4)] == pytest.approx([0.4 / 3.5, 0.8 / 3.5, 1.2 / 3.5, 0.4])
    assert rates(epochs=2, warmup_epochs=2)(19) == pytest.approx(0.4 * 20 / 21)


@given(
    schedule=st.sampled_from(SCHEDULES),
    epochs=st.integers(1, 1000),
    steps_per_epoch=st.integers(1, 1000),
    warmup=st.floats(0, 1),
    eta=st.floats(1e-300, 1e308),
    fraction=st.floats(0, 1, exclude_max=True),
)
def test_rate_is_positive_and_at_most_the_peak(
    schedule: str, epochs: int, steps_per_epoch: int, warmup: float, eta: float, fraction: float
):
    config = TrainingConfig(schedule=schedule, epochs=epochs, warmup_epochs=warmup * epochs, learning_rate=eta)
    total = epochs * steps_per_epoch
    for step in {0, int(fraction * total), total - 1}:
        assert 0 < learning_rate(config, step, steps_per_epoch) <= eta


@given(
    schedule=st.sampled_from(SCHEDULES),
    epochs=st.integers(1, 20),
    steps_per_epoch=st.integers(1, 20),
    warmup=st.floats(0, 1),
)
def test_rate_rises_only_in_warmup(schedule: str, epochs: int, steps_per_epoch: int, warmup: float):
    config = TrainingConfig(schedule=schedule, epochs=epochs, warmup_epochs=warmup * epochs)
    etas = [learning_rate(config, step, steps_per_epoch) for step in range(epochs * steps_per_epoch)]
    end = math.ceil(config.warmup_epochs * steps_per_epoch)
    assert etas[:end] == sorted(set(etas[:end]))
    assert etas[end:] == sorted(etas[end:], reverse=True)
