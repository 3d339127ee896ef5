"""docs/derivation.md: it has the equations that the code cites, and its numbers are right."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest

from mlpcli.model import gradcheck, network
from mlpcli.model.activations import SATURATED
from mlpcli.model.objectives import OBJECTIVES

DERIVATION = (Path(__file__).parents[2] / "docs" / "derivation.md").read_text("utf-8")
EQUATIONS = re.findall(r"^(.*) \\qquad \((\d+)\)$", DERIVATION, re.MULTILINE)


def test_equations_are_numbered_in_order_as_the_code_numbers_them():
    numbers = [int(number) for _, number in EQUATIONS]
    listed = re.findall(r"\((\d+)\)  ", network.__doc__)
    assert numbers == list(range(1, 13)) == sorted(int(number) for number in listed)


def test_every_line_of_code_cites_an_equation_there_is():
    cited = [int(number) for number in re.findall(r"# \((\d+)\)", inspect.getsource(network))]
    assert set(cited) == set(range(1, 13))


# The left-hand side, as the code writes it.
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (1, "product.add(scale, float(share.rank == 0), inner=inner)"),
        (2, "self.network.activation.forward(z, self._h[layer])"),
        (3, "self.objective.forward(t.z[-1], Y, t.p)"),
        (4, "self.network.objective.backward(t.z[-1], t.p, Y, dz)"),
        (5, "Product(a.T, dz[:, part.columns], part.W)"),
        (6, "Product(self.t.ones, dz[:, part.biases], part.b)"),
        (7, "self._back[below].add()"),
        (8, "self.network.activation.backward(self._h[below], dz, self._scratch[below])"),
        (9, "np.dot(W, W)"),
        (10, "addend.add(scale * self._factor)"),
        (11, "np.multiply(mask, self._below[layer], out=self._kept[layer])"),
        (12, "dz *= mask"),
    ],
)
def test_the_code_of_each_equation_cites_it(number, code):
    line = next(line for line in inspect.getsource(network).splitlines() if code in line)
    assert f"# ({number})" in line


def test_every_objective_is_derived():
    for name in OBJECTIVES:
        assert f"| `{name}` |" in DERIVATION


def stated(text):
    """Whether the page says so, and says it as mathematics."""
    return text in DERIVATION


def test_the_numbers_of_the_worked_examples():
    assert stated(f"-\\ln 0.87 = {-math.log(0.87):.4f}")
    assert stated(f"-\\ln 0.001 = {-math.log(0.001):.1f}")
    p = np.full(10, 0.01)
    for index, value in re.findall(r"\$`p_(\d) = ([\d.]+)`\$", DERIVATION.partition("**Example.**")[2][:400]):
        p[int(index)] = float(value)
    assert p.sum() == pytest.approx(1)
    assert (p > 0.01).sum() == 5
    assert stated(f"C = -\\ln 0.31 = {-math.log(p[2]):.6f}")
    assert stated(f"\\partial C / \\partial p_2 = -1/0.31 = {-1 / p[2]:.6f}")
    assert stated(f"0.31 \\cdot 0.69 = {p[2] * (1 - p[2]):.4f}")
    assert stated(f"-0.31 \\cdot 0.11 = {-p[2] * p[1]:.4f}")
    assert -1 / p[2] * p[2] * (1 - p[2]) == pytest.approx(p[2] - 1) == pytest.approx(-0.69)
    assert stated("$`-0.69 = p_2 - 1`$ and $`0.11 = p_1 - 0`$")


def test_the_numbers_of_the_check():
    assert stated(f"$`|z| = {SATURATED}`$")
    a = 1 / (1 + math.exp(-SATURATED))
    assert 0.0095 < a * (1 - a) < 0.01
    for words, method in (("Complex step", "complex"), ("Central differences", "central"), ("Jacobians", "jacobian")):
        assert stated(f"**{words}**, allowed $`10^{{{math.log10(gradcheck.TOLERANCE[method]):.0f}}}`$.")
    assert stated(f"$`h`$ can be $`10^{{{math.log10(gradcheck.COMPLEX_STEP):.0f}}}`$")
    assert stated(f"at $`h = 10^{{{math.log10(gradcheck.CENTRAL_STEPS[0]):.0f}}}`$")


def test_the_mathematics_is_written_as_github_renders_it():
    # Inline as $`...`$, where Markdown leaves underscores alone; displayed in fences; no macro that GitHub refuses.
    outside = re.sub(r"```math\n.*?```", "", DERIVATION, flags=re.DOTALL)
    assert DERIVATION.count("```") == 2 * DERIVATION.count("```math") > 20
    assert "$" not in re.sub(r"\$`[^`$\n]+`\$", "", outside)
    assert not re.search(r"\\operatorname|\\tag|\\label|\\def", DERIVATION)
    for block in re.findall(r"```math\n(.*?)```", DERIVATION, re.DOTALL) + re.findall(r"\$`([^`]+)`\$", outside):
        assert block.count("{") == block.count("}"), block


def test_links_lead_somewhere():
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^##? (.*)$", DERIVATION, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", DERIVATION):
        path, _, anchor = target.partition("#")
        assert anchor in headings if anchor else (Path(__file__).parents[2] / "docs" / path).exists()
