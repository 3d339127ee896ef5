"""``mlpcli gradcheck``: output, options, and detection of each corrupted gradient."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlpcli import commands
from mlpcli.commands import gradcheck as command
from mlpcli.config import Config, NetworkConfig
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES
from mlpcli.gradcheck import gradients
from mlpcli.gradcheck.check import EXAMPLES
from mlpcli.model.activations import ACTIVATIONS
from mlpcli.model.network import Gradient, Layer, Network, WeightDecay
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.model.parameters import Parameters, initialize
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.state import State
from tests.processes import SECONDS, start_process


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs the command in this process: exit status, stdout, stderr."""
    monkeypatch.setattr(command, "_one_thread", lambda: None)
    monkeypatch.setattr(commands.signal, "signal", lambda *_: None)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            commands.main(["gradcheck", *arguments])
        return (stop.value.code, *capsys.readouterr())

    return run


def small(objective="softmax_cross_entropy", activation="sigmoid", hidden="[5,5]"):
    return [
        f"--set=network.hidden={hidden}",
        f"--set=network.activation={activation}",
        f"--set=network.objective={objective}",
        "--set=training.l2=0",
        "--set=training.learning_rate=0.05",
        "--entries=20",
        "--processes=1",
    ]


def failed(document):
    """Return the tensors that failed, except those of a step, which follow from them."""
    names = {row["name"] for row in document["tensors"] if row["verdict"] != "passed"}
    return {name for name in names if not name.startswith("step")}


ALL = {"W1", "b1", "W2", "b2", "W3", "b3"}


def after_accumulation(change):
    """Corrupt the gradient after its products."""

    def corrupt(patch):
        init, accumulate = Gradient.__init__, Gradient.accumulate

        def remember(self, network, targets):
            init(self, network, targets)
            self.network, self.targets = network, targets

        def corrupted(self, alpha=1.0, beta=0.0):
            accumulate(self, alpha, beta)
            change(*zip(*self.targets, strict=True), self.network)

        patch(Gradient, "__init__", remember)
        patch(Gradient, "accumulate", corrupted)

    return corrupt


def with_transposed_W2(patch):
    """Corrupt (7): W instead of W^T."""
    backward = Layer.backward

    def corrupted(layer):
        backward(layer)
        if layer.W.shape == (5, 5):
            layer.dx[...] = layer.dz @ layer.W

    patch(Layer, "backward", corrupted)


def derivative(change):
    """Corrupt (8), the hidden activation's derivative."""

    def corrupt(patch):
        for activation in ACTIVATIONS.values():
            kind = type(activation)

            def corrupted(self, h, slope, derivative=kind.derivative):
                change(derivative(self, h, slope), h)
                return slope

            patch(kind, "derivative", corrupted)

    return corrupt


def output_delta(change):
    """Corrupt (4), the objective's derivative."""

    def corrupt(patch):
        for objective in OBJECTIVES.values():
            kind = type(objective)

            def corrupted(self, z, p, Y, dz, batch_size, backward=kind.backward):
                backward(self, z, p, Y, dz, batch_size)
                change(p, Y, dz)

            patch(kind, "backward", corrupted)

    return corrupt


def weight_decay(change):
    """Corrupt (10)."""

    def corrupt(patch):
        init = WeightDecay.__init__

        def remember(self, l2, W, dW):
            init(self, l2, W, dW)
            self.dW = dW

        patch(WeightDecay, "__init__", remember)
        patch(WeightDecay, "accumulate", lambda self, alpha=1.0: change(self.W, alpha * self.l2, self.dW))

    return corrupt


def swap(W, b, network):
    b[0][:], b[1][:] = b[1].copy(), b[0].copy()


def to_float32(array):
    array[...] = array.astype(np.float32)


def times(array, factor):
    array *= factor


def add(array, summand):
    array += summand


def without_first_example(b, layer):
    b[:] = layer.dz[1:].sum(axis=0)


PENALTIES = {"penalty W1", "penalty W2", "penalty W3"}

CORRUPTIONS = {
    "sign of dW1": (after_accumulation(lambda W, b, net: times(W[0], -1)), {"W1"}),
    "dW1 of bytes": (after_accumulation(lambda W, b, net: times(W[0], 255)), {"W1"}),
    "sign of db2": (after_accumulation(lambda W, b, net: times(b[1], -1)), {"b2"}),
    "1/B missing in dW2": (after_accumulation(lambda W, b, net: times(W[1], EXAMPLES)), {"W2"}),
    "1/B missing in db1": (after_accumulation(lambda W, b, net: times(b[0], EXAMPLES)), {"b1"}),
    "1/B missing in dW3": (after_accumulation(lambda W, b, net: times(W[2], EXAMPLES)), {"W3"}),
    "dW2 transposed": (after_accumulation(lambda W, b, net: np.copyto(W[1], W[1].T.copy())), {"W2"}),
    "W2 for its transpose": (with_transposed_W2, {"W1", "b1"}),
    "db1 and db2 swapped": (after_accumulation(swap), {"b1", "b2"}),
    "db3 in another order": (after_accumulation(lambda W, b, net: np.copyto(b[2], b[2][::-1].copy())), {"b3"}),
    "an example dropped from db1": (
        after_accumulation(lambda W, b, net: without_first_example(b[0], net.layers[0])),
        {"b1"},
    ),
    "a unit dropped from dW3": (after_accumulation(lambda W, b, net: times(W[2][2], 0)), {"W3"}),
    "a pixel dropped from dW1": (after_accumulation(lambda W, b, net: times(W[0][406], 0)), {"W1"}),
    "db2 left as it was": (after_accumulation(lambda W, b, net: times(b[1], 0)), {"b2"}),
    "dW1 in float32": (after_accumulation(lambda W, b, net: to_float32(W[0])), {"W1"}),
    "db3 in float32": (after_accumulation(lambda W, b, net: to_float32(b[2])), {"b3"}),
    "f' forgotten": (derivative(lambda slope, h: slope.fill(1)), ALL - {"W3", "b3"}),
    "f' = h": (derivative(lambda slope, h: np.copyto(slope, h)), ALL - {"W3", "b3"}),
    # In the first layer the two wrong signs make a right one.
    "sign of f'": (derivative(lambda slope, h: times(slope, -1)), {"W2", "b2"}),
    "f' in float32": (derivative(lambda slope, h: to_float32(slope)), ALL - {"W3", "b3"}),
    "1/B missing in dz3": (output_delta(lambda p, Y, dz: times(dz, len(dz))), ALL | {"dz3"}),
    "sign of dz3": (output_delta(lambda p, Y, dz: times(dz, -1)), ALL | {"dz3"}),
    "Y dropped from dz3": (output_delta(lambda p, Y, dz: np.copyto(dz, p / len(p))), ALL | {"dz3"}),
    "dz3 in float32": (output_delta(lambda p, Y, dz: to_float32(dz)), ALL | {"dz3"}),
    "the penalty's 2 dropped": (weight_decay(lambda W, l2, dW: add(dW, l2 * W)), PENALTIES),
    "sign of the penalty": (weight_decay(lambda W, l2, dW: add(dW, -2 * l2 * W)), PENALTIES),
    "the penalty written, not added": (weight_decay(lambda W, l2, dW: np.copyto(dW, 2 * l2 * W)), PENALTIES),
    "W1 without penalty": (
        weight_decay(lambda W, l2, dW: add(dW[3920:], 2 * l2 * W[3920:])),
        {"penalty W1"},
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_corrupted_gradient_is_caught_by_name(corruption, run, monkeypatch):
    corrupt, tensors = CORRUPTIONS[corruption]
    corrupt(monkeypatch.setattr)
    status, out, _ = run(*small(), "--json")
    document = json.loads(out)
    assert failed(document) - {"theta"} == tensors
    assert ("theta" in failed(document)) == (not tensors <= PENALTIES)
    assert status == 1
    assert document["verdict"] == "failed"


def test_penalized_biases_are_caught(run, monkeypatch):
    init = Parameters.__init__

    def all_are_weights(self, *given):
        init(self, *given)
        self.weights = self.vector

    monkeypatch.setattr(Parameters, "__init__", all_are_weights)
    status, out, _ = run(*small(), "--set=network.initialization=nielsen", "--json")
    document = json.loads(out)
    assert status == 1
    assert failed(document) == {"penalty", "penalty b1", "penalty b2", "penalty b3"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_factor_dropped_from_any_objective_is_caught(objective, run, monkeypatch):
    """Without (1 - s), p (1 - p) or the margins' count, p - Y remains, the delta of matched pairs only."""
    matched = ("softmax_cross_entropy", "sigmoid_cross_entropy", "linear_quadratic")
    output_delta(lambda p, Y, dz: np.divide(p - Y, len(Y), out=dz))(monkeypatch.setattr)
    status, out, _ = run(*small(objective, hidden="[5]"), "--set=training.batch_size=5", "--json")
    found = failed(json.loads(out))
    assert found == (set() if objective in matched else {"W1", "b1", "W2", "b2", "dz2", "theta"})
    assert objective in matched or status == 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_wrong_derivative_of_any_activation_is_caught(activation, run, monkeypatch):
    kind = type(ACTIVATIONS[activation])
    monkeypatch.setattr(kind, "derivative", lambda self, h, slope: np.add(h, 0.1, out=slope))
    status, out, _ = run(*small(activation=activation))
    assert status == 1
    assert "FAILED: W1, b1, W2, b2, theta" in out


def test_output_unit_that_differs_from_its_loss_is_caught(run, monkeypatch):
    kind = type(OBJECTIVES["softmax_cross_entropy"])
    monkeypatch.setattr(kind, "output", lambda self, z, p: np.copyto(p, z))
    status, out, _ = run(*small())
    assert status == 1
    assert "FAILED: dp/dz3\n" in out


def test_loss_that_differs_from_its_gradient_is_caught(run, monkeypatch):
    loss = Network.loss
    monkeypatch.setattr(Network, "loss", lambda self, Y: loss(self, Y) * len(Y))
    status, out, _ = run(*small())
    assert status == 1
    assert "FAILED: W1, b1, W2, b2, W3, b3, theta, loss" in out


def test_forward_pass_in_float32_is_caught(run, monkeypatch):
    forward = Network.forward

    def corrupted(network):
        z = forward(network)
        z.real[...] = z.real.astype(np.float32)
        return z

    monkeypatch.setattr(Network, "forward", corrupted)
    status, out, _ = run(*small())
    assert status == 1
    assert "FAILED: W1" in out


def test_wrong_sign_into_momentum_is_caught(run, monkeypatch):
    accumulate = Gradient.accumulate
    monkeypatch.setattr(Gradient, "accumulate", lambda self, alpha=1.0, beta=0.0: accumulate(self, abs(alpha), beta))
    status, out, _ = run(*small())
    assert status == 1
    assert "FAILED: step v, step theta\n" in out


def test_tables_come_before_the_verdict(run):
    status, out, err = run(*small(), "--set=training.l2=0.01")
    assert (status, err) == (0, "")
    head, table, steps, verdict = out.rstrip().split("\n\n")
    assert "784-5-5-10, sigmoid, softmax_cross_entropy; 4,015 parameters, initial weights of seed 0" in head
    assert "5 images of mnist-sample, with random labels; seed 0" in head
    assert "l2 = 0.01" in head
    assert "the config has none" not in head
    title, *lines, allowed = table.splitlines()
    assert title.split() == [
        "tensor",
        "shape",
        "checked",
        "complex",
        "central",
        "direction",
        "jacobian",
        "verdict",
    ]
    assert [line.split()[0] for line in lines] == [
        *("W1", "b1", "W2", "b2", "W3", "b3", "theta", "dz3", "dp/dz3", "loss", "h1", "h2"),
        *["penalty"] * 7,
    ]
    assert lines[0].split()[:6] == ["W1", "784", "x", "5", "30", "of"]
    assert all(line.endswith("passed") for line in lines)
    assert allowed.split() == ["allowed", "1e-12", "1e-07", "1e-12", "1e-12"]
    assert [line.split()[:2] for line in steps.splitlines()[1:-1]] == [
        *(["step", name] for name in ("loss", "v", "theta")),
        ["300", "updates"],
        ["100", "batches"],
    ]
    assert steps.splitlines()[-1].split() == ["allowed", "1e-12", "1e-04"]
    assert verdict == "passed: all 24"
    assert "the config has none" in run(*small())[1]


def test_json_is_one_document(run):
    status, out, err = run(*small(), "--json", "--seed=3", "--tolerance=1e-6", "--tolerance", "complex=1e-11")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert document["verdict"] == "passed"
    assert document["network"] == {
        "sizes": [784, 5, 5, 10],
        "activation": "sigmoid",
        "objective": "softmax_cross_entropy",
        "parameters": 4015,
    }
    assert document["examples"] == {"count": 5, "source": "images of mnist-sample", "labels": "random"}
    assert document["tolerance"] == {
        "complex": 1e-11,
        "central": 1e-6,
        "direction": 1e-6,
        "jacobian": 1e-6,
        "step": 1e-6,
        "float32": 1e-4,
    }
    assert (document["seed"], document["l2"]) == (3, 1e-4)
    first = document["tensors"][0]
    assert first.keys() == {"name", "shape", "checked", "errors", "allowed", "verdict", "kinks", "worst"}
    assert (first["name"], first["shape"], first["checked"]) == ("W1", [784, 5], 30)
    assert first["errors"].keys() == {"complex", "central", "direction", "jacobian", "step", "float32"}
    assert first["errors"]["jacobian"] is None
    assert 0 < first["errors"]["complex"] < 1e-14


def test_output_depends_only_on_the_seed(run):
    first, again, other = (run(*small(), "--json", seed)[1] for seed in ("--seed=1", "--seed=1", "--seed=2"))
    assert first == again != other


def test_labels_are_random_and_seeded(run, monkeypatch):
    seen = []
    check = gradients.check
    monkeypatch.setattr(gradients, "check", lambda *given, **more: seen.append(given[0].Y) or check(*given, **more))
    for seed in range(4):
        run(*small(hidden="[]"), f"--seed={seed}")
    assert all((Y.sum(axis=1) == 1).all() and Y.shape == (EXAMPLES, 10) for Y in seen)
    labels = [tuple(Y.argmax(axis=1)) for Y in seen]
    assert len(set(labels)) == 4
    assert len({label for each in labels for label in each}) > 6


def test_kinks_are_named(run):
    # Five relu units of weight 0 are at their kink.
    status, out, _ = run(*small(activation="relu"), "--set=network.initial_scale=0")
    assert status == 1
    assert "b1: 5 left out of central, at a kink of relu: b1[0], b1[1], b1[2], b1[3], b1[4]\n" in out
    assert "NOT EXERCISED: W1, b1" in out


@pytest.mark.slow
def test_every_entry_is_checked_on_request(run):
    status, out, _ = run("--set=network.hidden=[]", "--all", "--json")
    assert status == 0
    assert [tensor["checked"] for tensor in json.loads(out)["tensors"][:2]] == [7840, 10]


@pytest.fixture
def folder(tmp_path):
    """Write a data set of six 3 x 4 images in four classes."""
    rng = np.random.Generator(np.random.Philox(key=[1, 1]))
    for role, array in (
        ("train_images", rng.integers(0, 256, (6, 3, 4), np.uint8)),
        ("train_labels", np.array([0, 1, 2, 3, 3, 0], np.uint8)),
    ):
        (tmp_path / FILE_NAMES[role]).write_bytes(idx_bytes(array))  # type: ignore[index]
    return tmp_path


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def test_random_images_have_the_size_of_the_data(run, folder):
    assert idx.read(folder / FILE_NAMES["train_labels"], 1)[0].tolist() == [0, 1, 2, 3, 3, 0]
    status, out, _ = run(*small(), f"--set=data.dataset={folder}", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["network"]["sizes"] == [12, 5, 5, 4]
    assert document["examples"]["source"] == "random images"
    status, out, _ = run(*small(), f"--set=data.dataset={folder}", "--data", str(folder), "--json")
    assert json.loads(out)["examples"]["source"] == f"images of {folder.name}"
    assert status == 0


def test_images_that_do_not_fit_are_refused(run, folder):
    status, out, err = run("--data", str(folder))
    assert (status, out) == (3, "")
    assert err == f"mlpcli: {folder.name}: its images have 12 pixels, and the network takes 784 inputs\n"


def test_gradcheck_does_not_fetch_data(run, tmp_path):
    status, out, err = run("--data=mnist", f"--set=data.folder={tmp_path}")
    assert (status, out) == (3, "")
    assert "not there" in err
    assert list(tmp_path.iterdir()) == []


def test_missing_data_set_is_an_error(run, tmp_path):
    for arguments in (("--set=data.dataset=nosuch",), ("--data=nosuch",)):
        status, out, err = run(*arguments)
        assert (status, out) == (3, "")
        assert err.startswith("mlpcli: nosuch: neither a data set nor a file or folder")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tolerance=abc"],
        ["--tolerance=nan"],
        ["--tolerance=inf"],
        ["--tolerance=-1e-3"],
        ["--tolerance=0"],
        ["--tolerance=1"],
        ["--tolerance="],
        ["--tolerance=central=small"],
        ["--tolerance=exact=1e-9"],
        ["--all", "--entries=5"],
        ["nosuch"],
        ["--set=network.objective=nosuch"],
    ],
)
def test_wrong_usage_is_one_line(arguments, run):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("mlpcli: ")
    assert err.count("\n") == 1


@pytest.fixture
def checkpoint(tmp_path):
    """Write a run directory with a checkpoint of two layers."""
    config = Config(network=NetworkConfig(hidden=(5,), objective="sigmoid_cross_entropy"))
    theta = Parameters((784, 5, 10), "float32")
    initialize(theta, "nielsen", 1.0, "sigmoid", np.random.Generator(np.random.Philox(key=[2, 2])))
    state = State(theta=theta, optimizer={"v": np.zeros_like(theta.vector)}, epoch=3, step=30)
    path = tmp_path / "run" / "checkpoints" / "last.npz"
    path.parent.mkdir(parents=True)
    checkpoints.write(path, checkpoints.Checkpoint(config, "mnist", {}, (28, 28), 10, state))
    return path


def test_weights_of_a_checkpoint_are_checked(run, checkpoint, monkeypatch):
    seen = []
    check = gradients.check

    def spy(problem, theta, *given, **more):
        seen.append(Parameters((784, 5, 10), theta.dtype, theta).W[0].copy())
        return check(problem, theta, *given, **more)

    monkeypatch.setattr(gradients, "check", spy)
    with np.load(checkpoint) as file:
        W1 = file["W1"]
    for path in (checkpoint, checkpoint.parent.parent):
        seen.clear()
        status, out, _ = run(str(path), "--json")
        document = json.loads(out)
        assert status == 0
        assert document["weights"] == f"{checkpoint}, epoch 3"
        assert document["network"]["objective"] == "sigmoid_cross_entropy"
        np.testing.assert_array_equal(seen[0], W1)


def test_weights_of_another_network_are_checked(run, checkpoint, monkeypatch):
    seen = []
    check = gradients.check
    monkeypatch.setattr(gradients, "check", lambda *given, **more: seen.append(given[1]) or check(*given, **more))
    init = f"--set=network.init={checkpoint}"
    status, out, _ = run("--set=network.hidden=[5]", init, "--processes=1", "--json")
    assert status == 0
    assert json.loads(out)["weights"] == f"initial weights of {checkpoint}, epoch 3"
    np.testing.assert_array_equal(seen[0], checkpoints.read(checkpoint).parameters.vector)
    out = run("--set=network.hidden=[5,4]", init, "--processes=1")[1]
    assert f"initial weights of {checkpoint}, epoch 3, and of seed 0 in layers 2, 3\n" in out


def test_weights_that_do_not_fit_are_refused(run, checkpoint):
    status, out, err = run("--set=network.hidden=[6]", f"--set=network.init={checkpoint}")
    assert (status, out) == (2, "")
    assert err.startswith(f"mlpcli: network.init: {checkpoint}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_check_ends_without_a_traceback(number, status):
    arguments = ["-m", "mlpcli", "gradcheck", "records/plain", "--all"]
    with start_process([sys.executable, *arguments]) as process:
        while not children_of(process.pid):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == status
    assert "Traceback" not in out + err


def test_killed_part_of_a_check_is_one_line():
    arguments = ["-m", "mlpcli", "gradcheck", "records/plain", "--all", "--processes", "2"]
    with start_process([sys.executable, *arguments]) as process:
        while not (found := children_of(process.pid)):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(found[0], signal.SIGKILL)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 4
    assert err == "mlpcli: the process that checks the gradients has ended early, by signal 9\n"


def children_of(pid):
    """Return the child processes of a process, in order of their start."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_checkpoint_refuses_set(run, checkpoint):
    status, _, err = run(str(checkpoint), "--set=seed=1")
    assert status == 2
    assert err == f"mlpcli: {checkpoint}: --set is for configs; a checkpoint is checked unchanged\n"


def test_damaged_or_missing_checkpoint_is_one_line(run, checkpoint, tmp_path):
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(data)
    for path in (checkpoint, tmp_path / "none.npz", tmp_path):
        status, out, err = run(str(path))
        assert (status, out) == (4, "")
        assert err.startswith(f"mlpcli: {path}: ")
        assert err.count("\n") == 1


def test_default_is_one_thread():
    code = (
        "import os; from mlpcli.commands.gradcheck import _one_thread as f; f(); print(os.environ['OMP_NUM_THREADS'])"
    )
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    for more, threads in (({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")):
        child = subprocess.run(
            [sys.executable, "-c", code], env={**environment, **more}, capture_output=True, text=True
        )
        assert child.stdout.strip() == threads


def test_default_checks_two_processes(run):
    arguments = [each for each in small() if each != "--processes=1"]
    status, out, _ = run(*arguments)
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines() if line.startswith("2 ")] == [
        ["2", "processes", "loss"],
        ["2", "processes", "theta"],
    ]


def test_processes_may_outnumber_units(run):
    status, out, _ = run(*small(hidden="[2]"), "--processes=4")
    assert status == 0
    assert "4 processes theta" in out


@pytest.mark.parametrize("arguments", [["--processes=0"], ["--processes=-1"], ["--processes=2", "--mpi"]])
def test_impossible_numbers_of_processes_are_refused(arguments, run):
    status, out, err = run(*small()[:-1], *arguments)
    assert (status, out) == (2, "")
    assert "processes" in err


def test_processes_need_fork(run, monkeypatch):
    monkeypatch.delattr(os, "fork")
    status, out, err = run(*small()[:-1], "--processes=2")
    assert (status, out) == (2, "")
    assert err == "mlpcli: --processes needs a system whose processes can fork, such as Linux: leave it out\n"
    status, out, _ = run(*small()[:-1])
    assert status == 0
    assert "2 processes" not in out


def test_dead_network_is_not_exercised(run):
    arguments = small("sigmoid_quadratic", hidden="[5]")
    status, out, _ = run(*arguments, "--set=network.initial_scale=1e6")
    assert status == 1
    assert "FAILED" not in out
    assert "NOT EXERCISED: " in out


def test_small_gradient_beside_large_momentum_passes(run):
    # Every output unit is saturated within the first steps: v is about 1 and the gradient 2e-10.
    status, _, err = run("objectives/sigmoid-quadratic", "--set", "training.warmup_epochs=0", "--entries", "5")
    assert (status, err) == (0, "")
