"""Participants of the throughput table, and the process that runs one of them.

All train the same network on the same images. Every class trains as its library documents its fastest way. A
``note`` describes any difference from ``mlpcli train``. A library is imported only in the process of its participant.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from benchmarks import common

RATE = 0.01  # for every participant; small, so that the loss stays finite over hundreds of epochs
MOMENTUM = 0.9
TRIAL_STEPS = 50  # steps of each variant of a participant, timed before the first turn


class Peer:
    """One participant. Call :meth:`prepare` with a network, then :meth:`epoch` repeatedly."""

    packages: tuple[str, ...] = ()
    note = ""

    def __init__(self, data: str, examples: int, threads: int) -> None:
        self.threads = threads
        self.dataset = common.dataset(data, examples)
        self.images, self.labels = self.dataset.train.images, self.dataset.train.labels
        self.setup()

    def setup(self) -> None:
        """Import the library and convert the data to its form."""

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        """Make a network with these hidden layers, to train on the first ``examples`` images."""
        raise NotImplementedError

    def epoch(self) -> tuple[int, float]:
        """Train for an epoch; return the number of examples and the seconds."""
        started = time.perf_counter()
        seen = self.train()
        return seen, time.perf_counter() - started

    def train(self) -> int:
        """Train for an epoch; return the number of examples."""
        raise NotImplementedError

    def pixels(self) -> Any:
        """Return the images (N, 784) as float32 in [0, 1]."""
        return np.multiply(self.images, np.float32(1 / 255), dtype=np.float32)

    def processor_seconds(self) -> float:
        """Return the CPU time used so far."""
        return time.process_time()

    def sizes(self, hidden: Sequence[int]) -> tuple[int, ...]:
        """Return the units of each layer."""
        return (self.images.shape[1], *hidden, self.dataset.classes)


class Mlpcli(Peer):
    """mlpcli's Trainer, as ``mlpcli train`` runs it; the seconds are those of its epoch records."""

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        from dataclasses import replace

        from mlpcli.config import Config, NetworkConfig, TrainingConfig
        from mlpcli.datasets.load import Split

        training = TrainingConfig(
            epochs=1_000_000, batch_size=batch, optimizer="momentum", learning_rate=RATE, schedule="constant", l2=0.0
        )
        config = Config(network=NetworkConfig(hidden=tuple(hidden)), training=training)
        self.examples = examples
        train = Split(self.images[:examples], self.labels[:examples])
        self.epochs = self.records(config, replace(self.dataset, train=train))

    def records(self, config: Any, dataset: Any) -> Iterator[Any]:
        """Yield the epoch records; an epoch is trained when its record is requested."""
        from mlpcli.training.trainer import Trainer

        return Trainer(config, dataset).epochs()

    def epoch(self) -> tuple[int, float]:
        return self.examples, next(self.epochs).seconds


class MlpcliProcesses(Mlpcli):
    """The same with ``--processes``: one process for each thread of the others, with one thread each."""

    def records(self, config: Any, dataset: Any) -> Iterator[Any]:
        from mlpcli.parallel.forked import ForkedGroup
        from mlpcli.training.trainer import Trainer

        with ForkedGroup(self.threads) as group:
            trainer = Trainer(config, dataset, group=group)
            group.start_workers(trainer)
            yield from trainer.epochs()

    def processor_seconds(self) -> float:
        return time.process_time() + common.processor_seconds_of_children()


class Products(Peer):
    """Baseline: the step's matrix products alone, into memory allocated once, always on the same batch."""

    note = "only the matrix products; trains nothing"

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        self.examples = examples
        batch = min(batch, examples)
        self.steps, self.rest = divmod(examples, batch)
        rng = np.random.default_rng(0)
        sizes = self.sizes(hidden)
        a = [on_lines(rng.random((batch, units), np.float32)) for units in sizes[:-1]]
        a[0][...] = self.images[:batch] / np.float32(255)
        dz = [on_lines(rng.random((batch, units), np.float32) - np.float32(0.5)) for units in sizes[1:]]
        W = [on_lines(rng.random(shape, np.float32) - np.float32(0.5)) for shape in pairwise(sizes)]
        self.full = products(a, dz, W)
        self.last = products([v[: self.rest] for v in a], [v[: self.rest] for v in dz], W)

    def train(self) -> int:
        for _ in range(self.steps):
            self.multiply(self.full)
        if self.rest:
            self.multiply(self.last)
        return self.examples

    def multiply(self, listed: list[tuple[Any, Any, Any]]) -> None:
        """Compute the products of one step."""
        matmul = np.matmul
        for left, right, out in listed:
            matmul(left, right, out=out)


class PyTorchProducts(Products):
    """The same products, on the same memory, by PyTorch's matrix library."""

    packages = ("torch",)
    note = "the same matrix products by torch.mm; trains nothing"

    def setup(self) -> None:
        import torch

        torch.set_num_threads(self.threads)

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        import torch

        super().prepare(hidden, batch, examples)
        self.full, self.last = (
            [(torch.from_numpy(A), torch.from_numpy(B), torch.from_numpy(C)) for A, B, C in made]
            for made in (self.full, self.last)
        )

    def multiply(self, listed: list[tuple[Any, Any, Any]]) -> None:
        import torch

        mm = torch.mm
        for left, right, out in listed:
            mm(left, right, out=out)


def on_lines(array: Any) -> Any:
    """Return a copy aligned to cache lines, as mlpcli's own arrays are: the products are faster."""
    from mlpcli.model.memory import aligned

    copy = aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def products(a: list[Any], dz: list[Any], W: list[Any]) -> list[tuple[Any, Any, Any]]:
    """Return a step's products (left, right, out): a_{l-1} W_l for each layer, then a_{l-1}^T dz_l and dz_l W_l^T."""
    found = [(left, right, on_lines(out)) for left, right, out in zip(a, W, dz, strict=True)]
    for layer in reversed(range(len(W))):
        found.append((a[layer].T, dz[layer], on_lines(W[layer])))
        if layer:
            found.append((dz[layer], W[layer].T, on_lines(dz[layer - 1])))
    return found


def forward_products(X: Any, units: Sequence[int]) -> list[tuple[Any, Any, Any]]:
    """Return the products (left, right, out) of a forward pass of X (B, D) through layers of ``units``."""
    found, left, rng = [], on_lines(X), np.random.default_rng(0)
    for columns in units:
        W = on_lines(rng.random((left.shape[1], columns), np.float32) - np.float32(0.5))
        found.append((left, W, on_lines(np.empty((len(X), columns), np.float32))))
        left = on_lines(rng.random((len(X), columns), np.float32))
    return found


class _Variants(Peer):
    """A participant with several variants: all are tried when it is prepared, and the fastest is measured."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {}

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        self.batch, self.examples = min(batch, examples), examples
        fastest = np.inf
        for name, options in self.variants.items():
            train = self.make(self.sizes(hidden), **options)
            trial = min(examples, TRIAL_STEPS * self.batch)
            train(trial)  # the first call compiles
            seconds = min(_timed(train, trial) for _ in range(3))
            if seconds < fastest:
                fastest, self._train, self.note = seconds, train, f"{name}, the fastest of {len(self.variants)} ways"

    def make(self, sizes: tuple[int, ...], **options: Any) -> Callable[[int], None]:
        """Make a network and return a function that trains it for an epoch over the first N images."""
        raise NotImplementedError

    def train(self) -> int:
        self._train(self.examples)
        return self.examples


def _timed(train: Callable[[int], None], examples: int) -> float:
    started = time.perf_counter()
    train(examples)
    return time.perf_counter() - started


class PyTorch(_Variants):
    """PyTorch, eager: tensors in memory, batches by index, SGD with momentum, gradients set to None."""

    packages = ("torch",)
    compiled = False
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        f"{optimizer}, {gather}": {"optimizer": {optimizer: True}, "permute": gather == "permuted slices"}
        for optimizer in ("fused", "foreach")
        for gather in ("index_select", "permuted slices")
    }

    def setup(self) -> None:
        import torch

        torch.set_num_threads(self.threads)
        self.X = torch.from_numpy(self.pixels())
        self.y = torch.from_numpy(self.labels.astype(np.int64))

    def make(self, sizes: tuple[int, ...], **options: Any) -> Callable[[int], None]:
        import torch

        torch.manual_seed(0)
        layers: list[Any] = []
        for rows, columns in pairwise(sizes):
            layers += [torch.nn.Linear(rows, columns), torch.nn.Sigmoid()]
        model, criterion = torch.nn.Sequential(*layers[:-1]), torch.nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, **options["optimizer"])

        def forward(X: Any, y: Any) -> tuple[Any, Any]:
            z = model(X)
            return criterion(z, y), z

        step = optimizer.step
        if self.compiled:
            torch._dynamo.reset()
            forward = torch.compile(forward, dynamic=False)
            step = torch.compile(step) if options["compile_step"] else step

        def batches(examples: int) -> Any:
            order = torch.randperm(examples)
            if options["permute"]:
                X, y = self.X.index_select(0, order), self.y.index_select(0, order)
                yield from zip(X.split(self.batch), y.split(self.batch), strict=True)
            else:
                for chosen in order.split(self.batch):
                    yield self.X.index_select(0, chosen), self.y.index_select(0, chosen)

        def train(examples: int) -> None:
            total, wrong = torch.zeros(()), torch.zeros((), dtype=torch.int64)
            for X, y in batches(examples):
                optimizer.zero_grad(set_to_none=True)
                loss, z = forward(X, y)
                loss.backward()
                step()
                total += loss.detach() * len(y)
                wrong += (z.detach().argmax(1) != y).sum()
            assert np.isfinite(total.item()) and wrong.item() >= 0

        return train


class PyTorchCompiled(PyTorch):
    """PyTorch with forward pass, loss and backward pass compiled; the update too if that is faster."""

    compiled = True
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "fused step": {"optimizer": {"fused": True}, "permute": False, "compile_step": False},
        "compiled step": {"optimizer": {"foreach": True}, "permute": False, "compile_step": True},
    }


class ScikitLearn(Peer):
    """scikit-learn's MLPClassifier: an epoch is a call of partial_fit, without the check for NaN."""

    packages = ("scikit-learn",)
    note = "counts no errors"

    def setup(self) -> None:
        import sklearn

        sklearn.set_config(assume_finite=True)
        self.X = self.pixels()

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        from sklearn.neural_network import MLPClassifier

        self.examples = examples
        self.model = MLPClassifier(
            hidden,
            activation="logistic",
            solver="sgd",
            alpha=0.0,
            batch_size=min(batch, examples),
            learning_rate_init=RATE,
            momentum=MOMENTUM,
            nesterovs_momentum=False,
            early_stopping=False,
            random_state=0,
        )

    def train(self) -> int:
        classes = np.arange(self.dataset.classes)
        self.model.partial_fit(self.X[: self.examples], self.labels[: self.examples], classes=classes)
        return self.examples


class Jax(_Variants):
    """JAX with a jitted step and donated parameters: an epoch in one scan, or step by step if that is faster."""

    packages = ("jax", "jaxlib")
    variants: ClassVar[dict[str, dict[str, Any]]] = {"one scan": {"scan": True}, "step by step": {"scan": False}}

    def setup(self) -> None:
        import jax
        import jax.numpy as jnp

        self.X, self.y = jax.device_put(self.pixels()), jnp.asarray(self.labels, jnp.int32)

    def make(self, sizes: tuple[int, ...], **options: Any) -> Callable[[int], None]:
        import jax
        import jax.numpy as jnp

        key = jax.random.key(0)
        theta = []
        for shape in pairwise(sizes):
            key, own = jax.random.split(key)
            theta.append((jax.nn.initializers.glorot_uniform()(own, shape, jnp.float32), jnp.zeros(shape[1])))
        velocity = jax.tree.map(jnp.zeros_like, theta)

        def loss_and_errors(theta: Any, X: Any, y: Any) -> tuple[Any, Any]:
            a = X
            for W, b in theta[:-1]:
                a = jax.nn.sigmoid(a @ W + b)
            z = a @ theta[-1][0] + theta[-1][1]
            loss = jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0])
            return loss, jnp.sum(z.argmax(axis=1) != y)

        def step(state: Any, chosen: Any, X: Any, y: Any) -> Any:
            theta, velocity, total, wrong = state
            (loss, errors), gradient = jax.value_and_grad(loss_and_errors, has_aux=True)(theta, X[chosen], y[chosen])
            velocity = jax.tree.map(lambda v, g: MOMENTUM * v - RATE * g, velocity, gradient)
            theta = jax.tree.map(jnp.add, theta, velocity)
            return theta, velocity, total + loss * len(chosen), wrong + errors

        one_step = jax.jit(step, donate_argnums=0)

        def scan(state: Any, order: Any, X: Any, y: Any) -> Any:
            return jax.lax.scan(lambda state, chosen: (step(state, chosen, X, y), None), state, order)[0]

        all_steps = jax.jit(scan, donate_argnums=0)
        kept = {"key": key, "theta": theta, "velocity": velocity}

        def train(examples: int) -> None:
            kept["key"], own = jax.random.split(kept["key"])
            order = jax.random.permutation(own, examples)
            full = examples - examples % self.batch
            state = (kept["theta"], kept["velocity"], jnp.zeros(()), jnp.zeros((), jnp.int32))
            if options["scan"]:
                state = all_steps(state, order[:full].reshape(-1, self.batch), self.X, self.y)
            else:
                shuffled = np.asarray(order)
                for start in range(0, full, self.batch):
                    state = one_step(state, shuffled[start : start + self.batch], self.X, self.y)
            if full < examples:
                state = one_step(state, order[full:], self.X, self.y)
            kept["theta"], kept["velocity"], total, wrong = jax.block_until_ready(state)
            assert np.isfinite(float(total)) and int(wrong) >= 0

        return train


class Keras(Peer):
    """Keras: model.fit of a Sequential network, compiled by JAX."""

    packages = ("keras", "jax")
    note = "with the jax backend; one model.fit per epoch"

    def setup(self) -> None:
        os.environ["KERAS_BACKEND"] = "jax"
        import keras

        self.keras, self.X, self.y = keras, self.pixels(), self.labels.astype(np.int32)

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        layers = self.keras.layers
        self.batch, self.examples = min(batch, examples), examples
        self.model = self.keras.Sequential(
            [
                self.keras.Input((self.X.shape[1],)),
                *(layers.Dense(units, activation="sigmoid") for units in hidden),
                layers.Dense(self.dataset.classes),
            ]
        )
        self.model.compile(
            optimizer=self.keras.optimizers.SGD(RATE, momentum=MOMENTUM),
            loss=self.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    def train(self) -> int:
        chosen = slice(self.examples)
        history = self.model.fit(self.X[chosen], self.y[chosen], batch_size=self.batch, epochs=1, verbose=0)
        assert np.isfinite(history.history["loss"][0])
        return self.examples


class NervaNumpy(Peer):
    """nerva-numpy: its own stochastic_gradient_descent_plain, with its Momentum."""

    packages = ("nerva-numpy",)
    note = "drops an epoch's last, smaller batch; reports neither loss nor errors"

    def setup(self) -> None:
        from nerva_numpy.datasets import to_one_hot

        self.X = self.pixels()
        self.Y = to_one_hot(self.labels, self.dataset.classes)

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        from nerva_numpy.multilayer_perceptron import parse_multilayer_perceptron

        self.batch, self.examples = min(batch, examples), examples
        layers = [*("Sigmoid" for _ in hidden), "Linear"]
        momentum, glorot = [f"Momentum(mu={MOMENTUM})"] * len(layers), ["XavierUniform"] * len(layers)
        self.model = parse_multilayer_perceptron(layers, list(self.sizes(hidden)), momentum, glorot)

    def train(self) -> int:
        from nerva_numpy.learning_rate import ConstantScheduler
        from nerva_numpy.loss_functions import StableSoftmaxCrossEntropyLossFunction
        from nerva_numpy.training import stochastic_gradient_descent_plain

        stochastic_gradient_descent_plain(
            self.model,
            self.X[: self.examples],
            self.Y[: self.examples],
            StableSoftmaxCrossEntropyLossFunction(),
            ConstantScheduler(RATE),
            epochs=1,
            batch_size=self.batch,
            shuffle=True,
        )
        return self.examples - self.examples % self.batch


class NeuralNetworkDigits(Peer):
    """neural-network-digits: its train_step, in its own Trainer's order of batches."""

    packages = ("neural-network-digits",)
    note = "without its Trainer's distortions and its pass over all images after an epoch; counts no errors"

    def setup(self) -> None:
        from nn_digits.neural_net.network import NeuralNetwork

        self.NeuralNetwork = NeuralNetwork
        self.X = self.pixels()
        self.Y = np.eye(self.dataset.classes, dtype=np.float32)[self.labels]
        self.rng = np.random.default_rng(0)

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        self.batch, self.examples = min(batch, examples), examples
        self.model = self.NeuralNetwork(self.sizes(hidden), activation="sigmoid")

    def train(self) -> int:
        order = self.rng.permutation(self.examples)
        total = 0.0
        for start in range(0, self.examples, self.batch):
            chosen = order[start : start + self.batch]
            total += self.model.train_step(self.X[chosen], self.Y[chosen], RATE, MOMENTUM, l2=0.0)
        assert np.isfinite(total)
        return self.examples


PEERS: dict[str, type[Peer]] = {
    "mlpcli": Mlpcli,
    "mlpcli --processes": MlpcliProcesses,
    "products": Products,
    "pytorch-products": PyTorchProducts,
    "pytorch": PyTorch,
    "torch.compile": PyTorchCompiled,
    "scikit-learn": ScikitLearn,
    "jax": Jax,
    "keras": Keras,
    "nerva-numpy": NervaNumpy,
    "neural-network-digits": NeuralNetworkDigits,
}


def serve(peers: dict[str, type[Peer]]) -> None:
    """Run the peer that the command line names: read requests from stdin, write replies to stdout."""
    name, data, examples, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's output must not mix with the replies

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        if hasattr(os, "sched_setaffinity"):
            # For libraries that count the machine's cores instead of reading a variable.
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        peer = peers[name](data, examples, threads)
        answer(versions={package: importlib.metadata.version(package) for package in peer.packages})
        for line in sys.stdin:
            answer(**_serve(peer, json.loads(line)))
    except Exception as error:  # the reason is printed below the table
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        answer(error=f"{type(error).__name__}: {reason[:200]}")


def _serve(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "prepare":
        examples = request["examples"] or len(peer.labels)
        peer.prepare(request["hidden"], request["batch"], examples)
        peer.epoch()  # the warm-up
        return {"note": peer.note}
    seen, seconds, processor = 0, 0.0, peer.processor_seconds()
    while seconds < request["seconds"]:
        more, took = peer.epoch()
        seen, seconds = seen + more, seconds + took
    return {"examples": seen, "seconds": seconds, "processor_seconds": peer.processor_seconds() - processor}


if __name__ == "__main__":
    serve(PEERS)
