"""Each optimizer by hand and against its paper; state, precision, and resuming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlpcli.config import TrainingConfig
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.comm import SERIAL, Serial
from mlpcli.training import optimizers
from mlpcli.training.optimizers import OPTIMIZERS, Optimizer, make_optimizer
from tests.parallel.threads import thread_of
from tests.training import reference

Array = np.ndarray
NAMES = sorted(OPTIMIZERS)


def parameters(vector: Array, sizes: tuple[int, ...] = ()) -> Parameters:
    """Make parameters of one unit with a bias, or of ``sizes``."""
    return Parameters(sizes or (len(vector) - 1, 1), vector.dtype, vector)


def optimizer_of(name: str, theta: Parameters, momentum: float | None = None, l2: float = 0.0) -> Optimizer:
    """Return a new optimizer."""
    config = TrainingConfig(optimizer=name, momentum=momentum, l2=l2)
    state = {each: np.zeros_like(theta.vector) for each in optimizers.OPTIMIZER_STATE[name]}
    optimizer = make_optimizer(config, theta, parameters(np.zeros_like(theta.vector), theta.sizes), state, SERIAL)
    optimizer.begin()
    return optimizer


def step(optimizer: Optimizer, gradient: Any, eta: float, number: int) -> None:
    """Take step ``number``, from 1, with the gradient (n,) accumulated as the optimizer asks for it."""
    alpha, beta = optimizer.begin_step(eta, number)
    optimizer.accumulator[...] = beta * optimizer.accumulator + alpha * np.asarray(
        gradient, optimizer.accumulator.dtype
    )
    optimizer.step()


def moved(
    name: str, theta: list[float], moves: Any, momentum: float | None = None, dtype: str = "float64"
) -> tuple[list[Array], dict[str, Array]]:
    """Return theta after each step, and the final state. ``moves`` are pairs of learning rate and gradient."""
    vector, path = np.array(theta, dtype), []
    optimizer = optimizer_of(name, parameters(vector), momentum)
    for number, (eta, g) in enumerate(moves, start=1):
        step(optimizer, g, eta, number)
        path.append(vector.copy())
    optimizer.end()
    return path, optimizer.state


def random_moves(seed: int) -> list[tuple[float, Array]]:
    """Return up to twelve learning rates and gradients, small and large."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-6, 1, (random.integers(1, 13), 3))
    return [(10 ** random.uniform(-4, 0), g) for g in random.choice([-1, 0, 1], sizes.shape) * sizes]


# By hand ------------------------------------------------------------------------------------------

# Learning rate 0.1 and momentum 0.9; from theta = 1 and 0, with the gradients 0.5 and 0, 0.4 and 1, 0.3 and -1.
GRADIENTS = [(0.1, [0.5, 0.0]), (0.1, [0.4, 1.0]), (0.1, [0.3, -1.0])]


@pytest.mark.parametrize(
    ("name", "expected", "state"),
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
def test_three_steps_by_hand(name: str, expected: list[list[float]], state: dict[str, list[float]]):
    path, found = moved(name, [1.0, 0.0], GRADIENTS)
    np.testing.assert_allclose(path, expected, rtol=1e-14, atol=1e-16)
    assert found.keys() == state.keys()
    for each, value in state.items():
        np.testing.assert_allclose(found[each], value, rtol=1e-14)


def test_two_steps_of_adam_by_hand():
    # Learning rate 0.1, b1 = 0.9, b2 = 0.999. Gradient 0.5: m = 0.05, s = 0.00025; corrected by 1 - 0.9 and
    # 1 - 0.999 they are 0.5 and 0.25, and theta falls by 0.1 * 0.5 / (sqrt(0.25) + 1e-8).
    # Gradient 0.4: m = 0.045 + 0.04 = 0.085, s = 0.00024975 + 0.00016 = 0.00040975; corrected by 0.19 and 0.001999
    # they are 0.447368421 and 0.204977489, and theta falls by 0.1 * 0.447368421 / (0.452744396 + 1e-8) = 0.098812580.
    path, state = moved("adam", [1.0, 1.0], [(0.1, [0.5, 0.5]), (0.1, [0.4, 0.4])])
    assert path[0] == pytest.approx([0.900000002] * 2, abs=1e-12)
    assert path[1] == pytest.approx([0.801187422] * 2, abs=2e-9)
    assert state["m"] == pytest.approx([0.085] * 2)
    assert state["s"] == pytest.approx([0.00040975] * 2)


# Against the papers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.8, 0.99])
def test_steps_equal_those_of_the_paper(name: str, momentum: float):
    """Robbins and Monro 1951; Sutskever et al. 2013, equations 1 to 4; Kingma and Ba 2015, algorithm 1."""
    momentum = 0.0 if name == "sgd" else momentum
    for seed in range(20):
        expected, moves = reference.OPTIMIZERS[name](np.ones(3), momentum), random_moves(seed)
        path, _ = moved(name, [1.0] * 3, moves, momentum)
        for (eta, g), found in zip(moves, path, strict=True):
            expected.step(g, eta)
            np.testing.assert_allclose(found, expected.point, rtol=1e-9, atol=1e-9 if name == "adam" else 1e-12)


# Properties ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_momentum_of_0_is_bit_identical_to_sgd(name: str):
    for moves in map(random_moves, range(50)):
        plain, _ = moved("sgd", [1.0, 2.0, 3.0], moves)
        path, _ = moved(name, [1.0, 2.0, 3.0], moves, momentum=0.0)
        assert np.array_equal(path, plain)


def trained(name: str, comms: list[Serial], sizes: tuple[int, ...] = (4, 3, 2)) -> tuple[Array, dict[str, Array]]:
    """Return theta and state after six steps with weight decay, one optimizer per communicator, on shared vectors."""
    random = np.random.default_rng(0)
    theta, gradient = Parameters(sizes, "float64"), Parameters(sizes, "float64")
    theta.vector[:] = random.normal(size=len(theta.vector))
    state = {each: np.zeros_like(theta.vector) for each in optimizers.OPTIMIZER_STATE[name]}
    config = TrainingConfig(optimizer=name, l2=0.1)
    own = [make_optimizer(config, theta, gradient, state, comm) for comm in comms]
    for each in own:
        each.begin()
    for number in range(1, 7):
        [(alpha, beta)] = {each.begin_step(0.1, number) for each in own}
        accumulator = own[0].accumulator
        accumulator[...] = beta * accumulator + alpha * random.normal(size=len(accumulator))
        for each in own:
            each.step()
    for each in own:
        each.end()
    return theta.vector, state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk_size", [1, 5, 99])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_chunks_and_shards_have_no_effect(name: str, size: int, chunk_size: int, monkeypatch: pytest.MonkeyPatch):
    theta, state = trained(name, [SERIAL])
    monkeypatch.setattr(OPTIMIZERS[name], "chunk_size", chunk_size)
    found, same = trained(name, [thread_of(rank, size) for rank in range(size)])
    assert np.array_equal(found, theta)
    assert all(np.array_equal(same[each], vector) for each, vector in state.items())


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_of_weights_and_not_of_biases(name: str):
    l2, theta, same = 0.3, np.arange(1.0, 11.0), np.arange(1.0, 11.0)
    decayed, plain = optimizer_of(name, parameters(theta), l2=l2), optimizer_of(name, parameters(same))
    for number in range(1, 6):
        step(decayed, np.sin(theta), 0.1, number)
        step(plain, np.sin(same) + 2 * l2 * same * (np.arange(10) < 9), 0.1, number)
        np.testing.assert_allclose(theta, same, rtol=1e-12)


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_denormals_are_flushed_without_moving_theta(name: str, dtype: type, monkeypatch: pytest.MonkeyPatch):
    """The momentum of a pixel that is nonzero only once would decay to denormal numbers, and stay there."""

    def train() -> tuple[Array, Array, float]:
        theta = np.array([1.0, 1e-3, 0.5], dtype)
        optimizer = optimizer_of(name, parameters(theta))
        first = next(iter(optimizer.state.values()))
        once, lowest = ([1e-200, 1e-208] if dtype is np.float64 else [0.3, 1e-8]), np.inf
        for number in range(2_500):
            step(optimizer, [*(once if number == 0 else [0, 0]), 0.2], 1e-3, number + 1)
            lowest = min(lowest, *(size for size in np.abs(first) if size))
        return theta, first.copy(), lowest

    theta, state, lowest = train()
    monkeypatch.setattr(Optimizer, "_flush_denormals", lambda optimizer, vector: None)
    same, unflushed, lower = train()
    assert np.array_equal(theta, same)
    assert state[2] == unflushed[2] != 0
    assert np.array_equal(state[:2], [0, 0])
    assert lowest >= np.finfo(dtype).tiny > lower


@pytest.mark.parametrize("mu", [0.0, 1e-7, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_scale_of_momentum_has_no_effect(name: str, mu: float):
    """v = c u is rescaled before c gets too small: v equals the paper's after each step, however often read."""
    random = np.random.default_rng(3)
    vector, expected = np.ones(3), reference.OPTIMIZERS[name](np.ones(3), mu)
    optimizer = optimizer_of(name, parameters(vector), mu)
    assert isinstance(optimizer, optimizers.Momentum)
    scales = set()
    for number in range(300):
        g = random.normal(size=3)
        step(optimizer, g, 0.01, number + 1)
        expected.step(g, 0.01)
        np.testing.assert_allclose(vector, expected.point, rtol=1e-11)
        np.testing.assert_allclose(optimizer.state_dict()["v"], expected.v, rtol=1e-9, atol=1e-14)
        assert optimizers.MIN_MOMENTUM_SCALE <= optimizer.c <= 1.0
        scales.add(optimizer.c)
    assert (len(scales) > 1) == (mu > 1e-6)
    optimizer.end()
    np.testing.assert_allclose(optimizer.state["v"], expected.v, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_flushing_preserves_nan_and_inf(name: str):
    optimizer = optimizer_of(name, parameters(np.zeros(2)))
    for vector in optimizer.state.values():
        vector[...] = [np.nan, np.inf]
    with np.errstate(all="ignore"):
        step(optimizer, [0, 0], 0.1, optimizers.FLUSH_STEPS)
        optimizer.end()
    for vector in optimizer.state.values():
        assert np.isnan(vector[0])
        assert np.isinf(vector[1])


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_agree_and_are_preserved(name: str):
    moves = [(0.1, [0.5, -0.3, 1e-3])] * 5
    exact, _ = moved(name, [1.0, -1.0, 0.5], moves)
    single, state = moved(name, [1.0, -1.0, 0.5], moves, dtype="float32")
    assert {single[-1].dtype, *(vector.dtype for vector in state.values())} == {np.dtype("float32")}
    np.testing.assert_allclose(single, exact, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_optimizer_is_bit_identical(name: str):
    random = np.random.default_rng(2)
    gradients = random.normal(size=(8, 10)).astype(np.float32)
    theta = random.normal(size=10).astype(np.float32)
    whole = optimizer_of(name, parameters(theta))
    for number in range(4):
        step(whole, gradients[number], 0.1, number + 1)
    whole.end()
    initial = theta.copy()
    resumed = optimizer_of(name, parameters(initial))
    for each, vector in whole.state_dict().items():
        resumed.state[each][...] = vector
    for optimizer in (whole, resumed):
        optimizer.begin()
        for number in range(4, 8):
            step(optimizer, gradients[number], 0.1, number + 1)
    assert theta.tobytes() == initial.tobytes()


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam"])
def test_momentum_null_means_nine_tenths(name: str):
    null, same, other = (moved(name, [1.0, 0.0], GRADIENTS, momentum=momentum)[0] for momentum in (None, 0.9, 0.5))
    assert np.array_equal(null, same)
    assert not np.array_equal(null, other)
