"""The check of whole steps: it passes for every optimizer, and catches each kind of planted error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlpcli.config import AugmentationConfig, Config, NetworkConfig, TrainingConfig
from mlpcli.datasets import deskew
from mlpcli.gradcheck import distortions, long_runs
from mlpcli.gradcheck.rows import TOLERANCE
from mlpcli.gradcheck.steps import CheckedSteps, StepChecker, training_images
from mlpcli.model.activations import Sigmoid
from mlpcli.model.blas import Gemm
from mlpcli.model.dropout import draw_mask
from mlpcli.model.input import Input
from mlpcli.model.network import Network
from mlpcli.model.parameters import Parameters, initialize
from mlpcli.parallel.forked import ForkedGroup, SharedMemory
from mlpcli.rng import keyed_rng
from mlpcli.state import State
from mlpcli.training import augment, batches, initial, optimizers, schedule, step, trainer
from mlpcli.training.adversary import Adversary
from mlpcli.training.augment import Augmentation, draw_fields, inverses, strength_in
from mlpcli.training.averaging import MovingAverage
from mlpcli.training.batches import Batches
from mlpcli.training.connections import ConnectedGradient, connections, initial_factors
from mlpcli.training.margins import Margins
from mlpcli.training.step import TrainingStep
from mlpcli.training.targets import OneHot
from mlpcli.training.teacher import Teacher, TeacherTargets
from mlpcli.training.trainer import Trainer

OPTIMIZERS = {"sgd": "theta", "momentum": "v theta", "nesterov": "v theta", "adam": "m s theta"}


@pytest.fixture(autouse=True)
def _margins_are_trimmed(monkeypatch):
    """Trim margins of networks this small too."""
    monkeypatch.setattr(trainer, "MIN_WORK_TO_TRIM", 0)


def images(count=60):
    """Return images of 8 x 8 pixels whose first and last two rows are 0."""
    rng = np.random.default_rng(3)
    found = rng.integers(0, 256, (count, 8, 8), np.uint8)
    found[:, :2] = found[:, -2:] = 0
    return found.reshape(count, 64)


def config_of(hidden=(6, 5), augmentation=None, objective="softmax_cross_entropy", network=None, **training):
    keys = {"batch_size": 16, "l2": 1e-3, "learning_rate": 0.3, **training}
    if keys.get("optimizer") == "adam":
        keys["learning_rate"] = 0.01
    network = NetworkConfig(hidden=hidden, objective=objective, **(network or {}))
    return Config(augmentation=augmentation, network=network, training=TrainingConfig(**keys))


def initial_of(config):
    """Return the initial parameters, the subject of gradcheck's first table."""
    network = config.network
    theta = Parameters((64, *network.hidden, 4), np.float64)
    factors = [initial_factors(M) for M in connections(network, (8, 8))]
    rng = keyed_rng(config.seed, "initialization")
    initialize(theta, network.initialization, network.initial_scale, "sigmoid", rng, factors)
    return theta.vector


def rows_of(config, processes=0, state=None, teachers=()):
    dataset = training_images(config, images(), 4, (8, 8), 0)
    steps = CheckedSteps(config, dataset, state, teachers=teachers)
    checker = StepChecker(steps, initial_of(steps.config), np.random.default_rng(0))
    rows = checker.rows(CheckedSteps(config, dataset, state, teachers=teachers, dtype="float32"))
    if processes:
        with ForkedGroup(processes) as group:
            rows += checker.rows_of(CheckedSteps(config, dataset, state, group, teachers))
    rows += long_runs.check(config.training, config.seed, np.random.default_rng(0))
    return {row.name: row for row in rows}


def failed(rows):
    return {name for name, row in rows.items() if row.verdict != "passed"}


EVERYTHING = {
    "dropout": 0.3,
    "input_dropout": 0.2,
    "label_smoothing": 0.1,
    "adversarial": 0.5,
    "averaging": 0.99,
    "schedule": "step",
    "warmup_epochs": 1.0,
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["plain", "everything"])
def test_every_optimizer_passes(optimizer, more):
    rows = rows_of(config_of(optimizer=optimizer, **more), processes=2)
    expected = ["loss", *OPTIMIZERS[optimizer].split(), *(["average"] if more else [])]
    alone = ["300 updates", *(["300 averages"] if more else []), "100 batches"]
    assert list(rows) == [*(f"step {name}" for name in expected), "2 processes loss", "2 processes theta", *alone]
    assert failed(rows) == set()
    assert all(row.errors["step"] < 1e-13 for row in rows.values())
    assert all(0 < row.errors["float32"] < 1e-5 for name, row in rows.items() if name.startswith("step"))


@pytest.mark.parametrize("hidden", [(), (5,), (3, 4, 5)])
@pytest.mark.parametrize("objective", ["linear_hinge", "normalized_sigmoid"])
def test_every_depth_and_objective_passes(hidden, objective):
    assert failed(rows_of(config_of(hidden, objective=objective, learning_rate=0.05), processes=3)) == set()


TEACHERS = ("softmax_cross_entropy", "normalized_sigmoid")


def taught(objective="softmax_cross_entropy", preprocessing=(None, "deskew"), **more):
    """Return a config with teachers, and them: float32, of these ways of preprocessing."""
    config = config_of(objective=objective, teacher=("a", "b"), **more)
    teachers = []
    for seed, (how, other) in enumerate(zip(preprocessing, TEACHERS, strict=True)):
        theirs = config_of((3 + seed, 4), objective=other)
        theirs = replace(theirs, data=replace(theirs.data, preprocessing=how))
        theta = Parameters((64, *theirs.network.hidden, 4), np.float32)
        initialize(theta, "glorot", 2.0, "sigmoid", np.random.default_rng(seed))
        teachers.append(Teacher("t", theirs, theta, (8, 8), ("0", "1", "2", "3"), multi_label=False))
    return config, teachers


@pytest.mark.parametrize("objective", ["softmax_cross_entropy", "sigmoid_quadratic"])
@pytest.mark.parametrize("upright", [False, True])
def test_targets_of_teachers_pass(objective, upright):
    augmentation = AugmentationConfig(rotation=10, shift=1, elastic_alpha=8)
    config, teachers = taught(objective, augmentation=augmentation, dropout=0.3, input_dropout=0.2)
    if upright:
        config = replace(config, data=replace(config.data, preprocessing="deskew"))
    rows = rows_of(config, processes=3, teachers=teachers)
    assert failed(rows) == set()
    assert rows.pop("step images").errors["step"] < 1e-6  # coordinates are float32
    assert all(row.errors["step"] < 1e-12 for row in rows.values())


@pytest.mark.parametrize(("objective", "theirs"), [("softmax_cross_entropy",) * 2, ("sigmoid_quadratic",) * 2])
@pytest.mark.filterwarnings("error")
def test_targets_of_a_certain_teacher_pass(objective, theirs):
    config, teachers = taught(objective)
    teacher = replace(teachers[0], config=config_of((3, 4), objective=theirs))
    teacher.theta.W[-1][...] *= 1e5
    config = replace(config, training=replace(config.training, teacher=("a",)))
    assert failed(rows_of(config, teachers=[teacher])) == set()


def targets_after_dropout(patch):
    drop = Batches._drop

    def late(self, X, size, rng):
        drop(self, X, size, rng)
        self._teacher.write(X, self._Y[: len(X)])

    patch(Batches, "_drop", late)


def targets_of_the_labels(patch):
    patch(TeacherTargets, "write", lambda self, images, Y: None)


def targets_of_images_as_they_are(patch):
    patch(Teacher, "deskews", lambda self, preprocessing: False)


@pytest.mark.parametrize("plant", [targets_after_dropout, targets_of_the_labels, targets_of_images_as_they_are])
def test_wrong_targets_of_teachers_are_caught(plant, monkeypatch):
    plant(monkeypatch.setattr)
    config, teachers = taught(input_dropout=0.2)
    assert failed(rows_of(config, teachers=teachers)) == {"step loss", "step v", "step theta"}


def test_more_processes_than_units_pass():
    assert failed(rows_of(config_of((2,)), processes=4)) == set()


def test_distorted_images_pass():
    augmentation = AugmentationConfig(rotation=10, shift=1, elastic_alpha=8, final_epochs=2, final_strength=0.5)
    assert failed(rows_of(config_of(augmentation=augmentation))) == set()


def shift_x_and_y_exchanged(patch):
    def exchanged(config, draws, strength):
        return inverses(config, draws[:, [0, 1, 2, 3, 5, 4]], strength)

    patch(augment, "inverses", exchanged)


def displacements_too_large(patch):
    patch(augment, "draw_fields", lambda planes, alpha, *rest: draw_fields(planes, 1.01 * alpha, *rest))


def final_epochs_one_late(patch):
    patch(distortions, "strength_in", lambda config, epoch, epochs: strength_in(config, epoch, epochs + 1))


def images_distorted_as_their_neighbours(patch):
    distort = Augmentation.distort
    patch(Augmentation, "distort", lambda self, images, chosen, out: distort(self, images, chosen - 1, out))


def distortions_of_the_first_epoch(patch):
    begin = Augmentation.begin
    patch(Augmentation, "begin", lambda self, epoch: begin(self, 1))


def affine_at_full_strength_in_the_last_epochs(patch):
    patch(augment, "inverses", lambda config, draws, strength: inverses(config, draws, 1.0))


def elastic_at_full_strength_in_the_last_epochs(patch):
    patch(augment, "draw_fields", lambda planes, alpha, *rest: draw_fields(planes, max(alpha, 8.0), *rest))


@pytest.mark.parametrize(
    "plant",
    [
        affine_at_full_strength_in_the_last_epochs,
        elastic_at_full_strength_in_the_last_epochs,
        shift_x_and_y_exchanged,
        displacements_too_large,
        final_epochs_one_late,
        images_distorted_as_their_neighbours,
        distortions_of_the_first_epoch,
    ],
)
def test_wrong_distortions_are_caught(plant, monkeypatch):
    plant(monkeypatch.setattr)
    augmentation = AugmentationConfig(rotation=10, shift=1, elastic_alpha=8, final_epochs=2, final_strength=0.5)
    assert failed(rows_of(config_of(augmentation=augmentation))) == {"step images"}


@pytest.mark.parametrize("shape", [(28, 28), (3, 9), (1, 5), (7, 2)])
def test_deskewed_images_pass(shape):
    assert distortions.check_deskewing(shape, 0).verdict == "passed"


@pytest.mark.parametrize("factors", [(-1.0, 1.0), (1.0, 1.1)], ids=["slant", "centre"])
def test_wrong_deskewing_is_caught(factors, monkeypatch):
    moments = deskew.moments

    def wrong(images):
        return tuple(factor * moment for factor, moment in zip(factors, moments(images), strict=True))

    monkeypatch.setattr(deskew, "moments", wrong)
    assert distortions.check_deskewing((28, 28), 0).verdict == "failed"


@pytest.mark.parametrize(
    "bounds",
    [
        {"rotation": 180, "scale": 0.9, "shear": 80, "shift": 1000},
        {"elastic_alpha": 1e4, "elastic_sigma": 0.5},
        {"scale": 0.9, "elastic_alpha": 400, "elastic_sigma": 20},
        {"shear": 80, "elastic_alpha": 1},
    ],
)
def test_extreme_distortions_pass(bounds):
    assert failed(rows_of(config_of(augmentation=AugmentationConfig(**bounds)))) == set()


def test_steps_start_from_the_checkpoint_state():
    config = config_of(optimizer="adam", averaging=0.9)
    theta = Parameters((64, 6, 5, 4), np.float32)
    initialize(theta, "nielsen", 1.0, "sigmoid", np.random.default_rng(1))
    vectors = {name: np.full_like(theta.vector, 0.25) for name in "ms"}
    state = State(theta, vectors, Parameters(theta.sizes, np.float32, 1.5 * theta.vector), epoch=2, step=50)
    assert failed(rows_of(config, state=state)) == set()
    assert (state.epoch, state.step) == (2, 50)
    assert all((vector == 0.25).all() for vector in vectors.values())


@pytest.mark.parametrize(
    "network",
    [
        {"activation": "relu"},
        {"initial_scale": 0.0},
        {"initial_scale": 300.0},
        {"initial_scale": 1e20},
        {"activation": "tanh", "initial_scale": 30.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_rounding_to_float32_is_no_error(network, optimizer):
    assert failed(rows_of(config_of((6, 5, 7), network=network, optimizer=optimizer))) == set()


def test_what_float32_cannot_resolve_is_allowed():
    rows = rows_of(config_of((20,) * 6, network={"initial_scale": 30.0}))
    assert failed(rows) == set()
    assert TOLERANCE["float32"] < rows["step v"].errors["float32"] < rows["step v"].allowed["float32"]


def test_steps_that_diverge_in_float32_alone_are_not_exercised():
    rows = rows_of(config_of((), network={"initial_scale": 1e39}))
    assert failed(rows) == {"step float32"}
    assert "training diverged" in rows["step float32"].worst


def only_in_float32(wrong, right):
    """Return a function that calls ``wrong`` for arrays of float32, else ``right``; the last argument says which."""
    return lambda *given: (wrong if given[-1].dtype == np.float32 else right)(*given)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_loss_of_a_memorized_batch_is_no_error(batch_size, seed):
    assert failed(rows_of(replace(config_of((), batch_size=batch_size, learning_rate=20.0), seed=seed))) == set()


def slope_in_float32(patch):
    derivative = Sigmoid.derivative
    patch(Sigmoid, "derivative", only_in_float32(lambda self, h, slope: 0.99 * derivative(self, h, slope), derivative))


def products_in_float32(patch):
    create = Gemm.__init__

    def init(self, A, B, C):
        create(self, A, B, C)
        self.scale *= 1.01 if C.dtype == np.float32 else 1.0

    patch(Gemm, "__init__", init)


def masks_in_float32(patch):
    def draw(rate, shape, rng, out, own=...):
        draw_mask(rate, shape, rng, out, own)
        out *= 1.01 if out.dtype == np.float32 else 1.0

    patch(step, "draw_mask", draw)


def small_momentum_forgotten_in_float32(patch):
    create = optimizers.Momentum.__init__

    def init(self, *given, **more):
        create(self, *given, **more)
        self._tiny = 1e-2 if self.theta.dtype == np.float32 else self._tiny

    patch(optimizers.Momentum, "__init__", init)


@pytest.mark.parametrize(
    "plant", [slope_in_float32, products_in_float32, masks_in_float32, small_momentum_forgotten_in_float32]
)
def test_error_in_float32_alone_is_caught(plant, monkeypatch):
    plant(monkeypatch.setattr)
    rows = rows_of(config_of(dropout=0.3))
    assert {"step theta", "step v"} & failed(rows)
    assert all(row.errors["step"] < 1e-13 for row in rows.values())


def test_diverging_steps_are_not_exercised():
    rows = rows_of(config_of(objective="linear_quadratic", learning_rate=1e200))
    assert failed(rows) == {"step"}
    assert rows["step"].verdict == "not exercised"
    assert "training diverged" in rows["step"].worst


def wrong_sign_of_the_accumulated_gradient(patch):
    call = Gemm.__call__
    patch(Gemm, "__call__", lambda self, alpha=1.0, beta=0.0: call(self, -alpha if alpha < 0 else alpha, beta))


def margins_trimmed_too_far(patch):
    columns = Margins.columns
    patch(Margins, "columns", lambda *given: [[first + 16, last] for first, last in columns(*given)])


def margins_of_another_batch(patch):
    patch(Input, "nonzero_columns", lambda self: (24, 40))


def momentum_decayed_twice(patch):
    def end(self):
        for u, _ in self._plans:
            u *= self.c

    patch(optimizers, "MIN_MOMENTUM_SCALE", 0.95)
    patch(optimizers.Momentum, "end", end)


def weight_decay_missing(patch):
    init = optimizers.WeightDecay.__init__
    patch(optimizers.WeightDecay, "__init__", lambda self, l2, *arrays: init(self, 0.5 * l2, *arrays))


def input_scale(patch):
    patch(trainer, "INPUT_SCALE", 1 / 256)


def smoothing_missing(patch):
    table = OneHot.table
    patch(OneHot, "table", lambda self, smoothing, dtype: table(self, 0.0, dtype))


def labels_of_another_example(patch):
    gather = Batches._gather

    def shifted(self, chosen):
        images, labels, Y = gather(self, chosen)
        return images, labels, np.roll(Y, 1, axis=0)

    patch(Batches, "_gather", shifted)


def rate_of_the_next_step(patch):
    patch(trainer, "learning_rate", lambda config, step, steps: schedule.learning_rate(config, step + 1, steps))


def dropout_without_its_scale(patch):
    draw = TrainingStep.draw_masks

    def binary(self, rate, *given):
        draw(self, rate, *given)
        for layer in self.network.hidden:
            layer.mask[...] = layer.mask > 0

    patch(TrainingStep, "draw_masks", binary)


def average_with_the_square_of_its_decay(patch):
    init = MovingAverage.__init__
    patch(MovingAverage, "__init__", lambda self, a, t, decay, *rest: init(self, a, t, decay**2, *rest))


def epochs_that_end_without_momentum(patch):
    patch(optimizers.Momentum, "end", lambda self: self.state["v"].fill(0))


def plain_mean_of_the_average(patch):
    update = MovingAverage.update
    patch(MovingAverage, "update", lambda self, step: update(self, step if step < 4 else 10**9))


def initial_parameters_lost(patch):
    patch(trainer, "draw_parameters", lambda config, architecture, _: architecture.parameters(config.network.dtype))


def gradient_norms_of_another_vector(patch):
    patch(trainer, "gradient_norms", lambda gradient, *_: [1.0 for _ in gradient.W])


def last_batch_missing(patch):
    epoch = Batches.epoch
    patch(Batches, "epoch", lambda self, number: (b for b in epoch(self, number) if b.size == 16))


def steps_counted_twice(patch):
    step = trainer.Trainer.steps

    def steps(self):
        for record in step(self):
            self.state.step += 1
            yield record

    patch(trainer.Trainer, "steps", steps)


def last_quarter_of_the_schedule(patch):
    rate = schedule.learning_rate
    patch(
        schedule,
        "learning_rate",
        lambda config, step, steps: rate(config, step, steps) * (1 + (step > 0.9 * config.epochs * steps)),
    )


def momentum_forgotten_at_step_128(patch):
    begin_step = optimizers.Momentum.begin_step

    def forget(self, learning_rate, number):
        if number == 129:
            self.state["v"][:] = 0
        return begin_step(self, learning_rate, number)

    patch(optimizers.Momentum, "begin_step", forget)


def chunk_missing(patch):
    chunks = Parameters.chunks
    patch(Parameters, "chunks", lambda *given: chunks(*given)[:-1])


def images_of_the_first_batch_of_a_group(patch):
    write = Batches._write
    patch(Batches, "_write", lambda self, X, *given: write(self, self._bytes[: len(X)], *given))


def targets_of_the_first_batch_of_a_group(patch):
    epoch = Batches.epoch
    patch(Batches, "epoch", lambda self, number: (b._replace(Y=self._Y[: len(b.Y)]) for b in epoch(self, number)))


def third_group_like_the_first(patch):
    groups = Batches._groups

    def repeated(self, order):
        found = list(groups(self, order))
        yield from found[:2]
        yield from (found[0][: len(each)] if each.shape == found[0][: len(each)].shape else each for each in found[2:])

    patch(Batches, "_groups", repeated)


def second_group_like_the_first(patch):
    groups = Batches._groups

    def again(self, order):
        found = list(groups(self, order))
        return [found[0], found[0][: len(found[1])], *found[2:]]

    patch(Batches, "_groups", again)


def momentum_lost_in_a_long_epoch(patch):
    begin_step = optimizers.Momentum.begin_step

    def forget(self, rate, number):
        if self.c < 1e-3:
            self.c = 1.0
        return begin_step(self, rate, number)

    patch(optimizers.Momentum, "begin_step", forget)


def rate_doubled_from_the_third_step(patch):
    rate = schedule.learning_rate
    patch(trainer, "learning_rate", lambda config, step, steps: rate(config, step, steps) * (1 + (step % steps >= 2)))


def epoch_missing_in_the_key(patch):
    patch(batches, "keyed_rng", lambda seed, purpose, epoch: keyed_rng(seed, purpose, 1))


def seed_missing_in_the_key(patch):
    patch(batches, "keyed_rng", lambda seed, purpose, epoch: keyed_rng(0, purpose, epoch))


def columns_of_the_second_batch_of_a_group(patch):
    columns = Batches._columns
    patch(Batches, "_columns", lambda self, group: columns(self, group)[:2] + columns(self, group)[1:2] * len(group))


def first_column_moves_only_with_the_last(patch):
    call = Gemm.__call__

    def stale(self, alpha=1.0, beta=0.0):
        if self.input is not None and self.columns[1:] == self.input.columns[1:]:
            self.columns = self.input.columns.copy()
        call(self, alpha, beta)

    patch(Gemm, "__call__", stale)


def margins_of_the_first_images_alone(patch):
    columns = Margins.columns
    patch(Margins, "columns", lambda self, chosen: columns(self, chosen % 64))


def last_batch_missing_in_a_long_epoch(patch):
    epoch = Batches.epoch
    patch(Batches, "epoch", lambda self, number: (b for i, b in enumerate(epoch(self, number)) if i < 4 or b.size > 1))


PLANTED = {
    epoch_missing_in_the_key: {"step loss", "step v", "step theta"},
    seed_missing_in_the_key: {"step loss", "step v", "step theta", "100 batches"},
    columns_of_the_second_batch_of_a_group: {"100 batches"},
    first_column_moves_only_with_the_last: {"100 batches"},
    margins_of_the_first_images_alone: {"100 batches"},
    last_batch_missing_in_a_long_epoch: {"100 batches"},
    images_of_the_first_batch_of_a_group: {"step loss", "step v", "step theta", "100 batches"},
    targets_of_the_first_batch_of_a_group: {"step loss", "step v", "step theta", "100 batches"},
    rate_doubled_from_the_third_step: {"step loss", "step v", "step theta"},
    second_group_like_the_first: {"step loss", "step v", "step theta", "100 batches"},
    third_group_like_the_first: {"100 batches"},
    momentum_lost_in_a_long_epoch: {"300 updates"},
    wrong_sign_of_the_accumulated_gradient: {"step loss", "step v", "step theta"},
    margins_trimmed_too_far: {"step loss", "step v", "step theta", "100 batches"},
    margins_of_another_batch: {"step loss", "step v", "step theta", "100 batches"},
    momentum_decayed_twice: {"step loss", "step v", "step theta", "300 updates"},
    weight_decay_missing: {"step v", "step theta", "300 updates"},
    input_scale: {"step loss", "step v", "step theta"},
    smoothing_missing: {"step loss", "step v", "step theta"},
    labels_of_another_example: {"step loss", "step v", "step theta", "100 batches"},
    rate_of_the_next_step: {"step loss", "step v", "step theta"},
    dropout_without_its_scale: {"step loss", "step v", "step theta"},
    average_with_the_square_of_its_decay: {"step average", "300 averages"},
    epochs_that_end_without_momentum: {"step loss", "step v", "step theta", "300 updates"},
    plain_mean_of_the_average: {"step average", "300 averages"},
    initial_parameters_lost: {"step theta", "step average"},
    gradient_norms_of_another_vector: {"step loss"},
    last_batch_missing: {"step loss", "step average", "100 batches"},
    steps_counted_twice: {"step loss", "step v", "step theta", "step average"},
    last_quarter_of_the_schedule: {"step loss"},
    momentum_forgotten_at_step_128: {"step v", "step theta", "step average", "step loss", "300 updates"},
    chunk_missing: {"step loss", "step v", "step theta", "step average", "300 updates"},
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_error_is_caught(plant, monkeypatch):
    plant(monkeypatch.setattr)
    config = config_of(optimizer="momentum", dropout=0.3, label_smoothing=0.1, averaging=0.99)
    found = failed(rows_of(config))
    assert found
    assert found <= PLANTED[plant]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_wrong_gradient_norms_are_caught_with_any_optimizer(optimizer, monkeypatch):
    gradient_norms_of_another_vector(monkeypatch.setattr)
    assert failed(rows_of(config_of(optimizer=optimizer))) == {"step loss"}


RECEPTIVE_FIELDS = {"receptive_fields": (2.0, 3.0)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_of_a_locally_connected_network_pass(optimizer):
    config = config_of((9, 8, 4), network=RECEPTIVE_FIELDS, optimizer=optimizer, averaging=0.99)
    assert not failed(rows_of(config, processes=2))


def connections_ignored(patch):
    patch(ConnectedGradient, "accumulate", lambda self, *factors: self._gradient.accumulate(*factors))


def second_layer_fully_connected(patch):
    patch(trainer, "connections", lambda *arguments: connections(*arguments)[:1])


def larger_radius(patch):
    def wrong(network, *more):
        return connections(replace(network, receptive_fields=(2.5, 3.0)), *more)

    patch(trainer, "connections", wrong)
    patch(initial, "connections", wrong)


def weights_drawn_without_connections(patch):
    patch(initial, "connections", lambda *_: [])


def test_weights_that_are_not_connected_must_be_zero(monkeypatch):
    weights_drawn_without_connections(monkeypatch.setattr)
    config = config_of((9, 8, 4), network=RECEPTIVE_FIELDS, optimizer="momentum", l2=0.0)
    assert "step theta" in failed(rows_of(config))


@pytest.mark.parametrize("plant", [connections_ignored, second_layer_fully_connected, larger_radius])
def test_planted_error_of_connections_is_caught(plant, monkeypatch):
    plant(monkeypatch.setattr)
    config = config_of((9, 8, 4), network=RECEPTIVE_FIELDS, optimizer="momentum")
    assert {"step v", "step theta"} <= failed(rows_of(config))


def images_left_where_they_were(patch):
    patch(Adversary, "perturb", lambda self, Y: None)


def images_moved_twice(patch):
    perturb = Adversary.perturb
    patch(Adversary, "perturb", lambda self, Y: [perturb(self, Y), perturb(self, Y)])


def images_moved_towards_their_labels(patch):
    init = Adversary.__init__
    patch(Adversary, "__init__", lambda self, network, X, own, epsilon: init(self, network, X, own, -epsilon))


def images_moved_too_far(patch):
    init = Adversary.__init__
    patch(Adversary, "__init__", lambda self, network, X, own, epsilon: init(self, network, X, own, 1.01 * epsilon))


def gradient_of_images_wrong_in_large_batches(patch):
    input_gradient = Network.input_gradient

    def wrong(self):
        dX = input_gradient(self)
        dX[5:, 30] *= 2
        return dX

    patch(Network, "input_gradient", wrong)


def margins_trimmed_although_images_move(patch):
    make = Trainer._make_batches

    def trimmed(self):
        batches = make(self)
        batches._margins = Margins(self._dataset.train.images)
        return batches

    patch(Trainer, "_make_batches", trimmed)


MOVED = [
    images_left_where_they_were,
    images_moved_twice,
    images_moved_towards_their_labels,
    images_moved_too_far,
    gradient_of_images_wrong_in_large_batches,
    margins_trimmed_although_images_move,
]


@pytest.mark.parametrize("plant", MOVED, ids=lambda plant: plant.__name__)
def test_wrong_adversarial_images_are_caught(plant, monkeypatch):
    config = config_of(optimizer="momentum", adversarial=0.5)
    assert not failed(rows_of(config))
    plant(monkeypatch.setattr)
    expected = {"step loss", "step v", "step theta"}
    if plant is gradient_of_images_wrong_in_large_batches:
        expected = {"step loss"}  # the check moves images along the same dX, after it has found it wrong
    assert failed(rows_of(config)) == expected


@pytest.mark.parametrize("plant", [targets_of_the_first_batch_of_a_group, second_group_like_the_first])
def test_planted_error_is_caught_on_few_images(plant, monkeypatch):
    plant(monkeypatch.setattr)
    config = config_of(optimizer="momentum", batch_size=100)
    dataset = training_images(config, images(20), 4, (8, 8), 0)
    steps = CheckedSteps(config, dataset, None)
    checker = StepChecker(steps, initial_of(steps.config), np.random.default_rng(0))
    assert any(row.verdict == "failed" for row in checker.rows())


def no_partial_sums_added(patch):
    patch(SharedMemory, "reduce", lambda self, terms: self.barrier())


def last_partial_sum_missing(patch):
    reduce = SharedMemory.reduce
    patch(SharedMemory, "reduce", lambda self, terms: reduce(self, terms[:2]))


@pytest.mark.parametrize("plant", [no_partial_sums_added, last_partial_sum_missing])
def test_error_of_several_processes_is_caught(plant, monkeypatch):
    plant(monkeypatch.setattr)
    found = failed(rows_of(config_of(), processes=3))
    assert found
    assert all(name.startswith("3 processes") for name in found)


@pytest.mark.parametrize(
    ("count", "batch_size", "expected", "checked"), [(60, 16, 56, 16), (20, 16, 18, 5), (5, 100, 4, 1), (1, 1, 4, 1)]
)
def test_checks_use_three_and_a_half_batches(count, batch_size, expected, checked):
    dataset = training_images(config_of(batch_size=batch_size), images(count), 4, (8, 8), 0)
    assert len(dataset.train) == expected
    assert CheckedSteps(config_of(batch_size=batch_size), dataset, None).config.training.batch_size == checked


def test_checked_config_changes_only_dtype_length_and_seed():
    config = config_of(averaging=0.9998, patience=3)
    dataset = training_images(config, images(), 4, (8, 8), 0)
    steps = CheckedSteps(config, dataset, None)
    checked = steps.config
    assert checked.training.epochs >= 2 * steps.epochs[-1] >= 10
    assert checked.network == replace(config.network, dtype="float64")
    assert checked.seed == 1
    same = replace(checked.training, epochs=config.training.epochs, patience=3)
    assert same == config.training
