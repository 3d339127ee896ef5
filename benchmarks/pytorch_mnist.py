"""Train layers of sigmoids in PyTorch as fast as possible, from decoded IDX files.

Without options it trains the network of configs/fast.yaml to 98 %. With ``--distort`` it deskews all images and
distorts those of training anew in each epoch, as configs/fast-99.yaml does, by ``grid_sample``.

The script imports only torch itself. It maps the files instead of parsing them, and gathers batches as bytes, a whole
epoch at a time. The update is the fused kernel behind ``torch.optim.SGD(fused=True)``, called directly, because
importing torch.optim's first optimizer costs more than a second. Batch size, rate and epochs are the best for PyTorch,
chosen on the last 10,000 training images (``--validation``); benchmarks/README.md describes the search.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch.nn import functional

SIDE = 28
POOL = 2048  # displacement fields an epoch, as in mlpcli: each image draws one
CHUNK = 256  # images distorted at a time
MOMENTUM = 0.9
HELD_OUT = 10_000


def main() -> None:
    """Train once and print one line of JSON: the error, the number of images and the seconds of training."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", required=True, help="the folder with the four IDX files, plain")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--validation", action="store_true", help="do not open the test files: to choose a recipe")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--batch", type=int, default=192)
    options.add_argument("--rate", type=float, default=3.0)
    options.add_argument("--warmup", type=float, default=0.8, help="epochs in which the rate rises from 0")
    options.add_argument("--smoothing", type=float, default=0.05, help="label smoothing")
    options.add_argument("--decay", type=float, default=6e-5, help="weight decay; it costs nothing in the fused kernel")
    options.add_argument("--hidden", type=int, nargs="+", default=[128], help="the units of each hidden layer")
    options.add_argument("--gain", type=float, default=4.0, help="of the initial weights of the hidden layers")
    options.add_argument("--dropout", type=float, nargs=2, default=(0.0, 0.0), help="of the inputs and of hidden units")
    options.add_argument("--adversarial", type=float, default=0.0, help="move each image so far to raise its loss")
    options.add_argument("--distort", action="store_true", help="deskew all images, and distort those of training")
    options.add_argument("--rotation", type=float, default=10.0, help="degrees at most")
    options.add_argument("--scale", type=float, default=0.1)
    options.add_argument("--shear", type=float, default=5.0, help="degrees at most")
    options.add_argument("--alpha", type=float, default=34.0)
    options.add_argument("--sigma", type=float, default=5.0)
    options.add_argument("--final-epochs", type=int, default=2, help="the last epochs, of half the strength")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)

    folder = Path(given.data)
    X, y = read(folder / "train-images-idx3-ubyte", 16), read(folder / "train-labels-idx1-ubyte", 8).long()
    X = X.view(len(y), -1)
    if given.validation:
        X, y, X_test, y_test = X[:-HELD_OUT], y[:-HELD_OUT], X[-HELD_OUT:], y[-HELD_OUT:]
    if given.distort:
        X = deskewed(X)
    started = time.perf_counter()
    theta = train(X, y, given)
    seconds = time.perf_counter() - started
    if not given.validation:
        y_test = read(folder / "t10k-labels-idx1-ubyte", 8)
        X_test = read(folder / "t10k-images-idx3-ubyte", 16).view(len(y_test), -1)
    if given.distort:
        X_test = deskewed(X_test)
    with torch.no_grad():
        wrong = int((forward(theta, X_test.float().mul_(1 / 255)).argmax(1) != y_test).sum())
    found = {"error": wrong / len(y_test), "examples": len(y_test), "validation": given.validation}
    print(json.dumps({**found, "seconds": seconds, "threads": given.threads, "pytorch": torch.__version__}))


def read(path: Path, header: int) -> torch.Tensor:
    """Map an IDX file and return its bytes after the header."""
    return torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)[header:]


def forward(theta: list[torch.Tensor], X: torch.Tensor, dropout: Sequence[float] = (0.0, 0.0)) -> torch.Tensor:
    """Return the logits (B, 10) of X (B, 784)."""
    *hidden, W, b = theta
    A = functional.dropout(X, dropout[0]) if dropout[0] else X
    for weights, biases in zip(hidden[::2], hidden[1::2], strict=True):
        A = torch.sigmoid(torch.addmm(biases, A, weights))
        A = functional.dropout(A, dropout[1]) if dropout[1] else A
    return torch.addmm(b, A, W)


def moved(theta: list[torch.Tensor], X: torch.Tensor, targets: torch.Tensor, distance: float) -> torch.Tensor:
    """Return the images (B, 784), each moved by the distance along its gradient, as by mlpcli's adversary."""
    X.requires_grad_()
    loss = functional.cross_entropy(forward(theta, X), targets, reduction="sum")
    (dX,) = torch.autograd.grad(loss, X)
    return X.detach() + distance * functional.normalize(dX)


def deskewed(X: torch.Tensor) -> torch.Tensor:
    """Return the images (N, 784), each sheared so that its axis is upright, as bytes."""
    out = torch.empty_like(X)
    middle = torch.arange(SIDE) - (SIDE - 1) / 2
    for start in range(0, len(X), CHUNK):
        images = X[start : start + CHUNK].view(-1, SIDE, SIDE).float()
        rows, columns = images.sum(2), images @ middle  # each row's mass and first moment
        mass = rows.sum(1).clamp_(min=1)
        y = middle - (rows @ middle / mass)[:, None]
        slant = (y * columns).sum(1) / (y * y * rows).sum(1).clamp_(min=1e-9)
        grid = torch.empty(len(images), SIDE, SIDE, 2)
        grid[..., 0] = (middle + (slant[:, None] * y)[:, :, None]) * (2 / SIDE)
        grid[..., 1] = middle[:, None] * (2 / SIDE)
        moved = functional.grid_sample(images[:, None], grid, align_corners=False)
        out[start : start + CHUNK] = moved.add_(0.5).view(-1, SIDE * SIDE).to(torch.uint8)
    return out


def distorted(X: torch.Tensor, given: argparse.Namespace, strength: float) -> torch.Tensor:
    """Return the images (N, 784), each rotated, scaled, sheared and warped at random, as bytes."""
    middle = (torch.arange(SIDE) - (SIDE - 1) / 2) * (2 / SIDE)
    points = torch.stack(torch.meshgrid(middle, middle, indexing="xy"))
    radius = math.ceil(3 * given.sigma)
    gaussian = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / given.sigma) ** 2)
    G = torch.zeros(SIDE, SIDE + 2 * radius)
    for row in range(SIDE):
        G[row, row : row + len(gaussian)] = gaussian / gaussian.sum()
    noise = torch.empty(2 * POOL, SIDE + 2 * radius, SIDE + 2 * radius).uniform_(-1, 1)
    fields = (G @ (noise.view(-1, G.shape[1]) @ G.T).view(2 * POOL, -1, SIDE)).view(POOL, 2, SIDE, SIDE)
    fields = fields.mul_(strength * given.alpha * 2 / SIDE).add_(points).view(POOL, 2, SIDE * SIDE)

    draws = (2 * torch.rand(4, len(X)) - 1) * strength
    angle, slant = draws[0] * math.radians(given.rotation), torch.tan(draws[1] * math.radians(given.shear))
    wider, taller = 1 + given.scale * draws[2], 1 + given.scale * draws[3]
    c, s = torch.cos(angle), torch.sin(angle)
    M = torch.stack([(c + slant * s) / wider, (slant * c - s) / wider, s / taller, c / taller], dim=1).view(-1, 2, 2)
    chosen = torch.randint(POOL, (len(X),))
    out = torch.empty_like(X)
    for start in range(0, len(X), CHUNK):
        own = slice(start, start + CHUNK)
        # x and y in planes: with pairs of them the product takes twenty times as long.
        grid = torch.bmm(M[own], fields.index_select(0, chosen[own])).view(-1, 2, SIDE, SIDE).permute(0, 2, 3, 1)
        images = X[own].float().view(-1, 1, SIDE, SIDE)
        warped = functional.grid_sample(images, grid, align_corners=False)
        out[own] = warped.view(-1, SIDE * SIDE).to(torch.uint8)
    return out


def train(X: torch.Tensor, y: torch.Tensor, given: argparse.Namespace) -> list[torch.Tensor]:
    """Train with Nesterov's momentum, warm-up and a cosine schedule; return the parameters."""
    theta: list[torch.Tensor] = []
    sizes = (X.shape[1], *given.hidden, 10)
    for rows, columns in pairwise(sizes):
        gain = given.gain if len(theta) < 2 * len(given.hidden) else 1.0  # the output is linear
        limit = gain * math.sqrt(6 / (rows + columns))
        theta += [torch.empty(rows, columns).uniform_(-limit, limit), torch.zeros(columns)]
    for parameter in theta:
        parameter.requires_grad_()
    velocity = [torch.zeros_like(parameter) for parameter in theta]

    steps_per_epoch = math.ceil(len(y) / given.batch)
    warmup, steps = given.warmup * steps_per_epoch, given.epochs * steps_per_epoch
    step = 0
    for epoch in range(given.epochs):
        order = torch.randperm(len(y))
        shuffled, labels = X.index_select(0, order), y.index_select(0, order)
        if given.distort:
            shuffled = distorted(shuffled, given, 0.5 if epoch >= given.epochs - given.final_epochs else 1.0)
        for images, targets in zip(shuffled.split(given.batch), labels.split(given.batch), strict=True):
            rate = given.rate * (step + 1) / (warmup + 1)
            if step >= warmup:
                rate = given.rate / 2 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
            A = images.float().mul_(1 / 255)
            if given.adversarial:
                A = moved(theta, A, targets, given.adversarial)
            z = forward(theta, A, given.dropout)
            loss = functional.cross_entropy(z, targets, label_smoothing=given.smoothing)
            gradients = torch.autograd.grad(loss, theta)
            with torch.no_grad():
                torch._fused_sgd_(
                    theta,
                    list(gradients),
                    velocity,
                    lr=rate,
                    momentum=MOMENTUM,
                    nesterov=True,
                    weight_decay=given.decay,
                    dampening=0.0,
                    maximize=False,
                    is_first_step=False,
                )
            step += 1
    return theta


if __name__ == "__main__":
    main()
