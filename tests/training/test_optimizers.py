"""Each update rule by hand, against its paper, and on a bowl; each schedule at its corners."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import TrainingConfig
from mlpcli.training import optimizers
from mlpcli.training.optimizers import OPTIMIZERS, Optimizer, learning_rate, make_optimizer

Array = np.ndarray
RULES = sorted(OPTIMIZERS)


def optimizer_of(config: TrainingConfig, theta: Array, gradient: Array) -> Optimizer:
    """The rule at its start, of all parameters, a piece at a time."""
    state = {name: np.zeros_like(theta) for name in OPTIMIZERS[config.optimizer].memory}
    pieces = [slice(i, min(i + optimizers.PIECE, len(theta))) for i in range(0, len(theta), optimizers.PIECE)]
    optimizer = make_optimizer(config, theta, gradient, state, pieces)
    optimizer.begin()
    return optimizer


def step(optimizer: Optimizer, gradient: Array, eta: float, number: int) -> None:
    """One step, with the gradient (n,) added to the accumulator as the rule asks for it."""

    def add(scale: float) -> None:
        if optimizer.accumulator is gradient:
            gradient[...] *= scale
        else:
            optimizer.accumulator[...] += scale * gradient

    optimizer.step(eta, number, add)


# A learning rate and a gradient for each step.
steps = st.lists(
    st.tuples(st.floats(1e-4, 1.0), st.lists(st.floats(-10, 10), min_size=3, max_size=3)), min_size=1, max_size=12
)


def config_of(rule: str, momentum: float | None = None, **values: Any) -> TrainingConfig:
    return TrainingConfig(optimizer=rule, momentum=momentum, **values)


def moved(
    rule: str, theta: list[float], moves: Any, momentum: float | None = None, dtype: str = "float64"
) -> tuple[list[Array], dict[str, Array]]:
    """theta after each step, and the rule's memory at the end. ``moves``: (learning rate, gradient) pairs."""
    vector, gradient = np.array(theta, dtype), np.zeros(len(theta), dtype)
    optimizer = optimizer_of(config_of(rule, momentum), vector, gradient)
    path = []
    for number, (eta, g) in enumerate(moves, start=1):
        gradient[...] = g
        step(optimizer, gradient, eta, number)
        path.append(vector.copy())
    optimizer.end()
    return path, optimizer.state


# By hand -------------------------------------------------------------------------------------------------------------

# Learning rate 0.1 and momentum 0.9; from theta = 1 and 0, with the gradients 0.5 and 0, 0.4 and 1, 0.3 and -1.
GRADIENTS = [(0.1, [0.5, 0.0]), (0.1, [0.4, 1.0]), (0.1, [0.3, -1.0])]


@pytest.mark.parametrize(
    ("rule", "expected", "memory"),
    [
        # 1 - 0.05 = 0.95, - 0.04 = 0.91, - 0.03 = 0.88; 0, - 0.1, + 0.1
        ("sgd", [[0.95, 0.0], [0.91, -0.1], [0.88, 0.0]], {}),
        # v = -0.05, 0.9 v - 0.04 = -0.085, 0.9 v - 0.03 = -0.1065, each added to theta;
        # v = 0, -0.1, -0.09 + 0.1 = 0.01
        ("momentum", [[0.95, 0.0], [0.865, -0.1], [0.7585, -0.09]], {"v": [-0.1065, 0.01]}),
        # the same v; to theta is added 0.9 v - 0.1 g:
        # -0.045 - 0.05 = -0.095, -0.0765 - 0.04 = -0.1165, -0.09585 - 0.03 = -0.12585;
        # 0, -0.09 - 0.1 = -0.19, 0.009 + 0.1 = 0.109
        ("nesterov", [[0.905, 0.0], [0.7885, -0.19], [0.66265, -0.081]], {"v": [-0.1065, 0.01]}),
    ],
)
def test_three_steps_by_hand(rule: str, expected: list[list[float]], memory: dict[str, list[float]]):
    path, state = moved(rule, [1.0, 0.0], GRADIENTS)
    np.testing.assert_allclose(path, expected, rtol=1e-14, atol=1e-16)
    assert state.keys() == memory.keys()
    for name, value in memory.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-14)


def test_two_steps_of_adam_by_hand():
    # Learning rate 0.1, b1 = 0.9, b2 = 0.999. Gradient 0.5: m = 0.05, s = 0.00025; corrected by 1 - 0.9 and
    # 1 - 0.999 they are 0.5 and 0.25, and theta falls by 0.1 * 0.5 / (sqrt(0.25) + 1e-8).
    # Gradient 0.4: m = 0.045 + 0.04 = 0.085, s = 0.00024975 + 0.00016 = 0.00040975; corrected by 0.19 and 0.001999
    # they are 0.447368421 and 0.204977489, and theta falls by 0.1 * 0.447368421 / (0.452744396 + 1e-8) = 0.098812580.
    path, state = moved("adam", [1.0], [(0.1, [0.5]), (0.1, [0.4])])
    assert path[0][0] == pytest.approx(0.900000002, abs=1e-12)
    assert path[1][0] == pytest.approx(0.801187422, abs=2e-9)
    assert state["m"][0] == pytest.approx(0.085)
    assert state["s"][0] == pytest.approx(0.00040975)


# Against the papers --------------------------------------------------------------------------------------------------


@given(steps)
def test_momentum_is_equations_1_and_2(moves: Any):
    """Sutskever, Martens, Dahl, Hinton 2013: v' = mu v - eta g(theta), theta' = theta + v'."""
    theta, v = np.ones(3), np.zeros(3)
    for (eta, g), found in zip(moves, moved("momentum", [1.0] * 3, moves, 0.8)[0], strict=True):
        v = 0.8 * v - eta * np.array(g)
        theta = theta + v
        np.testing.assert_allclose(found, theta, rtol=1e-12, atol=1e-12)


def some_gradient(theta: Array) -> Array:
    """Of a function that is no quadratic, so that a gradient at the wrong point shows."""
    return np.sin(3 * theta) + theta**3 - 0.2


@pytest.mark.parametrize("mu", [0.3, 0.9, 0.99])
def test_nesterov_is_the_classical_two_point_rule_after_a_change_of_variables(mu: float):
    """Sutskever et al. 2013, equations 3 and 4: v' = mu v - eta g(theta + mu v), theta' = theta + v'.

    With phi = theta + mu v, the point where the gradient is taken, that is what our rule calls theta.
    """
    etas = [0.05 / (1 + number / 7) for number in range(30)]
    theta, v = np.array([0.7, -1.1, 0.2]), np.zeros(3)
    phi, gradient = theta.copy(), np.zeros(3)
    ours = optimizer_of(config_of("nesterov", mu), phi, gradient)
    for number, eta in enumerate(etas, start=1):
        v = mu * v - eta * some_gradient(theta + mu * v)
        theta = theta + v
        gradient[...] = some_gradient(phi)
        step(ours, gradient, eta, number)
        np.testing.assert_allclose(phi, theta + mu * v, rtol=1e-11)


@given(steps, st.floats(0.0, 0.99))
def test_adam_is_algorithm_1(moves: Any, b1: float):
    """Kingma and Ba 2015, line by line."""
    b2, eps = 0.999, 1e-8
    theta, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    for t, ((alpha, gradient), found) in enumerate(zip(moves, moved("adam", [1.0] * 3, moves, b1)[0], strict=True), 1):
        g = np.array(gradient)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        theta = theta - alpha * m_hat / (np.sqrt(v_hat) + eps)
        np.testing.assert_allclose(found, theta, rtol=1e-9, atol=1e-9)


# Properties ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["momentum", "nesterov"])
@given(moves=steps)
def test_without_momentum_a_rule_is_gradient_descent_bit_for_bit(rule: str, moves: Any):
    plain, _ = moved("sgd", [1.0, 2.0, 3.0], moves)
    path, _ = moved(rule, [1.0, 2.0, 3.0], moves, momentum=0.0)
    assert np.array_equal(path, plain)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 99])
def test_pieces_do_not_show(rule: str, piece: int, monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    moves = [(0.1, random.normal(size=10)) for _ in range(4)]
    whole, memory = moved(rule, list(range(10)), moves)
    monkeypatch.setattr(optimizers, "PIECE", piece)
    pieced, same = moved(rule, list(range(10)), moves)
    assert np.array_equal(pieced, whole)
    assert all(np.array_equal(same[name], memory[name]) for name in memory)


@pytest.mark.parametrize("rule", ["momentum", "nesterov", "adam"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_that_fades_ends_at_zero_and_moves_nothing_by_it(
    rule: str, dtype: type, monkeypatch: pytest.MonkeyPatch
):
    """A pixel that is lit once and then dark: without settling its memory would stay at numbers that are not normal."""
    steps = 12_000 if dtype is np.float64 else 2_000

    def train() -> tuple[np.ndarray, np.ndarray, float]:
        theta, gradient = np.array([1.0, 1e-3, 0.5], dtype), np.array([0.3, 1e-8, 0.2], dtype)
        optimizer = optimizer_of(config_of(rule), theta, gradient)
        first = next(iter(optimizer.state.values()))
        lowest = np.inf
        for number in range(steps):
            gradient[...] = [gradient[0], gradient[1], 0.2] if number == 0 else [0, 0, 0.2]
            step(optimizer, gradient, 1e-3, number + 1)
            lowest = min(lowest, *(size for size in np.abs(first) if size))
        return theta, first.copy(), lowest

    theta, memory, lowest = train()
    monkeypatch.setattr(Optimizer, "_settle", lambda optimizer, vector: None)
    same, unsettled, lower = train()
    assert np.array_equal(theta, same)
    assert memory[2] == unsettled[2] != 0
    assert np.array_equal(memory[:2], [0, 0])
    assert lowest >= np.finfo(dtype).tiny > lower


@pytest.mark.parametrize("mu", [0.0, 1e-7, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("rule", ["momentum", "nesterov"])
def test_the_unit_of_momentum_does_not_show(rule: str, mu: float):
    """v = c u, and before c gets too small v is written out: after each step, and however often, v is the paper's."""
    random = np.random.default_rng(3)
    theta, v = np.ones(3), np.zeros(3)
    vector, gradient = np.ones(3), np.zeros(3)
    optimizer = optimizer_of(config_of(rule, mu), vector, gradient)
    assert isinstance(optimizer, optimizers.Momentum)
    units = set()
    for number in range(300):
        g = random.normal(size=3)
        gradient[...] = g
        step(optimizer, gradient, 0.01, number + 1)
        v = mu * v - 0.01 * g
        theta = theta + v
        np.testing.assert_allclose(vector, theta + mu * v if rule == "nesterov" else theta, rtol=1e-11)
        units.add(optimizer._unit)
        assert optimizers.LEAST_UNIT <= optimizer._unit <= 1.0
        np.testing.assert_allclose(optimizer._unit * optimizer.state["v"], v, rtol=1e-9, atol=1e-14)
    assert (len(units) > 1) == (mu > 1e-6)
    optimizer.end()
    np.testing.assert_allclose(optimizer.state["v"], v, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("rule", RULES)
def test_settling_hides_no_number_that_is_not_finite(rule: str):
    theta, gradient = np.zeros(2), np.zeros(2)
    optimizer = optimizer_of(config_of(rule), theta, gradient)
    for vector in optimizer.state.values():
        vector[...] = [np.nan, np.inf]
    with np.errstate(all="ignore"):
        step(optimizer, gradient, 0.1, optimizers.SETTLE_STEPS)
        optimizer.end()
    for vector in optimizer.state.values():
        assert np.isnan(vector[0])
        assert np.isinf(vector[1])


@pytest.mark.parametrize("rule", RULES)
def test_a_bowl_is_descended_to_its_bottom(rule: str):
    """f = 1/2 sum k (theta - bottom)^2, ten times steeper one way than the other."""
    k, bottom = np.array([1.0, 10.0]), np.array([3.0, -2.0])
    theta, gradient = np.zeros(2), np.zeros(2)
    config = config_of(rule, epochs=1000, learning_rate=0.05, schedule="cosine")
    optimizer = optimizer_of(config, theta, gradient)
    for number in range(1000):
        gradient[...] = k * (theta - bottom)
        step(optimizer, gradient, learning_rate(config, number, 1), number + 1)
    np.testing.assert_allclose(theta, bottom, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_keeps_the_dtype_and_agrees_in_both(rule: str):
    moves = [(0.1, [0.5, -0.3, 1e-3])] * 5
    exact, _ = moved(rule, [1.0, -1.0, 0.5], moves)
    single, state = moved(rule, [1.0, -1.0, 0.5], moves, dtype="float32")
    assert {single[-1].dtype, *(vector.dtype for vector in state.values())} == {np.dtype("float32")}
    np.testing.assert_allclose(single, exact, atol=1e-6)


def test_what_is_added_to_a_piece_is_moved_by_as_if_the_gradient_had_had_it():
    """A penalty, say: the rules ask for it times the factor that the gradient had."""
    random = np.random.default_rng(1)
    more = random.normal(size=10)
    for rule in RULES:
        paths = []
        for whole in (True, False):
            theta, gradient = np.arange(10.0), np.zeros(10)
            optimizer = optimizer_of(config_of(rule), theta, gradient)

            def add(scale: float) -> None:
                g = np.sin(theta) + (more if whole else 0.0)  # noqa: B023
                keep = optimizer.accumulator is not gradient  # noqa: B023
                optimizer.accumulator[...] = keep * optimizer.accumulator + scale * g  # noqa: B023

            def add_to_piece(number: int, scale: float) -> None:
                assert number == 0
                optimizer.accumulator[...] += scale * more  # noqa: B023

            for number in range(5):
                optimizer.step(0.1, number + 1, add, None if whole else add_to_piece)
            paths.append(theta.copy())
        np.testing.assert_allclose(*paths, rtol=1e-12)


@pytest.mark.parametrize("rule", ["momentum", "nesterov"])
def test_an_epoch_begun_again_from_what_is_kept_goes_on_to_the_bit(rule: str):
    random = np.random.default_rng(2)
    gradients = random.normal(size=(8, 10)).astype(np.float32)
    theta, gradient = random.normal(size=10).astype(np.float32), np.zeros(10, np.float32)
    optimizer = optimizer_of(config_of(rule), theta, gradient)
    for number in range(4):
        gradient[...] = gradients[number]
        step(optimizer, gradient, 0.1, number + 1)
    optimizer.end()
    kept, v = theta.copy(), optimizer.state["v"].copy()
    resumed = optimizer_of(config_of(rule), kept, g := np.zeros(10, np.float32))
    resumed.state["v"][...] = v
    for each in (optimizer, resumed):
        each.begin()
    for number in range(4, 8):
        gradient[...] = g[...] = gradients[number]
        step(optimizer, gradient, 0.1, number + 1)
        step(resumed, g, 0.1, number + 1)
    assert theta.tobytes() == kept.tobytes()


@pytest.mark.parametrize("rule", ["momentum", "nesterov", "adam"])
def test_momentum_null_means_nine_tenths(rule: str):
    assert np.array_equal(moved(rule, [1.0, 0.0], GRADIENTS)[0], moved(rule, [1.0, 0.0], GRADIENTS, momentum=0.9)[0])
    assert not np.array_equal(
        moved(rule, [1.0, 0.0], GRADIENTS)[0], moved(rule, [1.0, 0.0], GRADIENTS, momentum=0.5)[0]
    )


@pytest.mark.parametrize("rule", RULES)
def test_no_gradient_ever_moves_nothing(rule: str):
    path, state = moved(rule, [1.0, -2.0], [(0.1, [0.0, 0.0])] * 3)
    assert np.array_equal(path, [[1.0, -2.0]] * 3)
    assert not any(vector.any() for vector in state.values())


# Schedules -----------------------------------------------------------------------------------------------------------


def rates(**values: Any) -> Callable[[int], float]:
    """The learning rate of a step, ten steps an epoch, 0.4 the highest."""
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


def test_step_falls_to_a_tenth_at_half_and_to_a_hundredth_at_three_quarters():
    at = rates(schedule="step", epochs=4)
    assert [at(0), at(19), at(20), at(29), at(30), at(39)] == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.004])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warm_up_rises_in_equal_steps_to_the_rate_of_its_first_step_after(schedule: str):
    at = rates(schedule=schedule, epochs=10, warmup_epochs=2)
    assert [at(0), at(9), at(19), at(20)] == pytest.approx([0.4 / 21, 0.4 * 10 / 21, 0.4 * 20 / 21, 0.4])


def test_after_warm_up_cosine_falls_over_what_is_left():
    at = rates(schedule="cosine", epochs=10, warmup_epochs=2)
    assert at(60) == pytest.approx(0.2)


def test_warm_up_of_part_of_an_epoch_and_of_all_epochs():
    assert [rates(epochs=2, schedule="constant", warmup_epochs=0.25)(step) for step in range(4)] == pytest.approx(
        [0.4 / 3.5, 0.8 / 3.5, 1.2 / 3.5, 0.4]
    )
    assert rates(epochs=2, warmup_epochs=2)(19) == pytest.approx(0.4 * 20 / 21)


@given(
    schedule=st.sampled_from(["constant", "cosine", "step"]),
    epochs=st.integers(1, 1000),
    steps_per_epoch=st.integers(1, 1000),
    warmup=st.floats(0, 1),
    eta=st.floats(1e-300, 1e308),
    share=st.floats(0, 1, exclude_max=True),
)
def test_a_rate_is_above_0_and_at_most_the_highest(
    schedule: str, epochs: int, steps_per_epoch: int, warmup: float, eta: float, share: float
):
    config = TrainingConfig(schedule=schedule, epochs=epochs, warmup_epochs=warmup * epochs, learning_rate=eta)
    total = epochs * steps_per_epoch
    for step in {0, int(share * total), total - 1}:
        assert 0 < learning_rate(config, step, steps_per_epoch) <= eta


@given(
    schedule=st.sampled_from(["constant", "cosine", "step"]),
    epochs=st.integers(1, 20),
    steps_per_epoch=st.integers(1, 20),
    warmup=st.floats(0, 1),
)
def test_a_rate_rises_in_warm_up_and_never_after(schedule: str, epochs: int, steps_per_epoch: int, warmup: float):
    config = TrainingConfig(schedule=schedule, epochs=epochs, warmup_epochs=warmup * epochs)
    etas = [learning_rate(config, step, steps_per_epoch) for step in range(epochs * steps_per_epoch)]
    end = math.ceil(config.warmup_epochs * steps_per_epoch)
    assert etas[:end] == sorted(set(etas[:end]))
    assert etas[end:] == sorted(etas[end:], reverse=True)
