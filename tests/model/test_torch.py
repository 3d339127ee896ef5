"""Compare the gradients with PyTorch's autograd: run with ``pytest -m torch``."""

from __future__ import annotations

import numpy as np
import pytest

from mlpcli.model.activations import ACTIVATIONS
from mlpcli.model.network import WeightDecay
from mlpcli.model.objectives import OBJECTIVES
from tests.model.networks import loss_and_gradient, problem

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


def cross_entropy(z, Y):
    return torch.nn.functional.cross_entropy(z, Y)


def sigmoid_cross_entropy(z, Y):
    return torch.nn.functional.binary_cross_entropy_with_logits(z, Y, reduction="sum") / len(Y)


def quadratic(a, Y):
    return torch.nn.functional.mse_loss(a, Y, reduction="sum") / (2 * len(Y))


def hinge(z, Y):
    # multi_margin_loss divides by the number of classes.
    return torch.nn.functional.multi_margin_loss(z, Y.argmax(dim=1), margin=1.0) * z.shape[1]


def normalized_sigmoid(z, Y):
    s = torch.sigmoid(z)
    return -(Y * torch.log(s / s.sum(dim=1, keepdim=True))).sum() / len(Y)


LOSSES = {
    "softmax_cross_entropy": cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "linear_quadratic": quadratic,
    "sigmoid_quadratic": lambda z, Y: quadratic(torch.sigmoid(z), Y),
    "linear_hinge": hinge,
    "normalized_sigmoid": normalized_sigmoid,
}


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_autograd_agrees(objective, activation, depth):
    case, l2 = problem((20, *(12, 9, 7)[:depth], 10), activation, objective, batch=8, seed=depth), 0.01
    theta, (loss, gradient, _) = case.theta, loss_and_gradient(case)
    decay = WeightDecay(l2, theta.weights, gradient.weights)
    loss += decay.penalty()
    decay.accumulate()

    leaves = [torch.tensor(tensor, requires_grad=True) for _, tensor in theta.tensors()]
    a = torch.tensor(case.X)
    for layer, (W, b) in enumerate(zip(leaves[::2], leaves[1::2], strict=True)):
        z = a @ W + b
        a = getattr(torch, activation)(z) if layer < depth else z
    expected = LOSSES[objective](a, torch.tensor(case.Y)) + l2 * sum((W**2).sum() for W in leaves[::2])
    expected.backward()

    assert float(loss) == pytest.approx(expected.item(), rel=1e-12)
    for (name, tensor), leaf in zip(gradient.tensors(), leaves, strict=True):
        found = leaf.grad.numpy()
        error = np.linalg.norm(tensor - found) / (np.linalg.norm(tensor) + np.linalg.norm(found))
        assert error < 1e-10, name
        assert np.linalg.norm(found) > 1e-6, name
