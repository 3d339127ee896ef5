"""Train the network of configs/fast.yaml to 98 % in PyTorch as fast as possible, from decoded IDX files.

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
from pathlib import Path

import torch
from torch.nn import functional

HIDDEN = 128
MOMENTUM = 0.9
HELD_OUT = 10_000


def main() -> None:
    """Train once and print one line of JSON: the error and the number of images."""
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
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)

    folder = Path(given.data)
    X, y = read(folder / "train-images-idx3-ubyte", 16), read(folder / "train-labels-idx1-ubyte", 8).long()
    X = X.view(len(y), -1)
    if given.validation:
        X, y, X_test, y_test = X[:-HELD_OUT], y[:-HELD_OUT], X[-HELD_OUT:], y[-HELD_OUT:]
    theta = train(X, y, given)
    if not given.validation:
        y_test = read(folder / "t10k-labels-idx1-ubyte", 8)
        X_test = read(folder / "t10k-images-idx3-ubyte", 16).view(len(y_test), -1)
    with torch.no_grad():
        wrong = int((forward(theta, X_test.float().mul_(1 / 255)).argmax(1) != y_test).sum())
    print(json.dumps({"error": wrong / len(y_test), "examples": len(y_test), "validation": given.validation}))


def read(path: Path, header: int) -> torch.Tensor:
    """Map an IDX file and return its bytes after the header."""
    return torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)[header:]


def forward(theta: list[torch.Tensor], X: torch.Tensor) -> torch.Tensor:
    """Return the logits (B, 10) of X (B, 784)."""
    W1, b1, W2, b2 = theta
    return torch.addmm(b2, torch.sigmoid(torch.addmm(b1, X, W1)), W2)


def train(X: torch.Tensor, y: torch.Tensor, given: argparse.Namespace) -> list[torch.Tensor]:
    """Train with Nesterov's momentum, warm-up and a cosine schedule; return the parameters."""
    theta = []
    for rows, columns, gain in ((X.shape[1], HIDDEN, 4.0), (HIDDEN, 10, 1.0)):
        limit = gain * math.sqrt(6 / (rows + columns))
        theta += [torch.empty(rows, columns).uniform_(-limit, limit), torch.zeros(columns)]
    for parameter in theta:
        parameter.requires_grad_()
    velocity = [torch.zeros_like(parameter) for parameter in theta]

    steps_per_epoch = math.ceil(len(y) / given.batch)
    warmup, steps = given.warmup * steps_per_epoch, given.epochs * steps_per_epoch
    step = 0
    for _ in range(given.epochs):
        order = torch.randperm(len(y))
        shuffled, labels = X.index_select(0, order), y.index_select(0, order)
        for images, targets in zip(shuffled.split(given.batch), labels.split(given.batch), strict=True):
            rate = given.rate * (step + 1) / (warmup + 1)
            if step >= warmup:
                rate = given.rate / 2 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
            z = forward(theta, images.float().mul_(1 / 255))
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
