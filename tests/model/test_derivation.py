"""docs/derivation.md: its equations are those of the code, its numbers are right and its commands run."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from mlpcli.analysis.explain import neuron
from mlpcli.commands import _run
from mlpcli.gradcheck.probe import CENTRAL_STEPS, COMPLEX_STEP
from mlpcli.gradcheck.rows import NEGLIGIBLE, TOLERANCE
from mlpcli.model import network
from mlpcli.model.activations import ACTIVATIONS, SATURATED
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.training import adversary, connections

DERIVATION = (Path(__file__).parents[2] / "docs" / "derivation.md").read_text("utf-8")
FORMULAS = re.findall(r"\$`([^`$\n]+)`\$", DERIVATION)  # in the text; displayed ones are in fences
EQUATIONS = re.findall(r"^(.*) \\qquad \((\d+)\)$", DERIVATION, re.MULTILINE)


def test_page_and_code_have_the_same_equation_numbers():
    numbers = [int(number) for _, number in EQUATIONS]
    listed = re.findall(r"\((\d+)\)  ", network.__doc__)
    for elsewhere in (adversary, connections):
        listed += re.findall(r"\((\d+)\)  ", elsewhere.__doc__)
    assert numbers == list(range(1, 15))
    assert sorted(map(int, listed)) == numbers


def test_every_objective_is_derived():
    for name in OBJECTIVES:
        assert f"| `{name}` |" in DERIVATION


def test_numbers_of_the_worked_examples():
    assert f"-\\ln 0.87 = {-math.log(0.87):.4f}" in FORMULAS
    assert f"-\\ln 0.001 = {-math.log(0.001):.1f}" in FORMULAS
    p = np.full(10, 0.01)
    for index, value in re.findall(r"^p_(\d) = ([\d.]+)$", "\n".join(FORMULAS), re.MULTILINE):
        p[int(index)] = float(value)
    assert p.sum() == pytest.approx(1)
    assert (p > 0.01).sum() == 5
    assert f"C = -\\ln 0.31 = {-math.log(p[2]):.6f}" in FORMULAS
    assert f"C = {-math.log(p[2]):.6f}" in FORMULAS
    assert f"\\partial C / \\partial p_2 = -1/0.31 = {-1 / p[2]:.6f}" in FORMULAS
    assert f"0.31 \\cdot 0.69 = {p[2] * (1 - p[2]):.4f}" in FORMULAS
    assert f"-0.31 \\cdot 0.11 = {-p[2] * p[1]:.4f}" in FORMULAS
    assert f"{p[2] - 1:.2f} = p_2 - 1" in FORMULAS and f"{p[1]:.2f} = p_1 - 0" in FORMULAS


def test_numbers_of_the_sigmoid():
    assert f"|z| = {SATURATED}" in FORMULAS
    z = np.array([0.0, SATURATED])
    h, slope = np.empty(2), np.empty(2)
    ACTIVATIONS["sigmoid"].forward(z, h)
    ACTIVATIONS["sigmoid"].derivative(h, slope)
    assert slope[0] == 1 / 4 and "1/4" in FORMULAS
    assert slope[0] ** 3 == 1 / 64 and "1/64" in FORMULAS
    assert 0.0095 < slope[1] < 0.01 and "0.01" in FORMULAS
    assert f"p = {neuron(rate=1.0, steps=0)[0].p[0]:.3f}" in FORMULAS


def power_of_10(number):
    exponent = round(math.log10(number))
    assert number == float(f"1e{exponent}")
    return f"10^{{{exponent}}}"


def test_numbers_of_the_check():
    for method in ("complex", "central", "jacobian", "float32"):
        assert power_of_10(TOLERANCE[method]) in FORMULAS, method
    assert power_of_10(COMPLEX_STEP) in FORMULAS
    assert power_of_10(NEGLIGIBLE) in FORMULAS
    assert f"t = {power_of_10(CENTRAL_STEPS[0])}" in FORMULAS
    assert f"t = {power_of_10(CENTRAL_STEPS[1])}" in FORMULAS


def test_mathematics_renders_on_github():
    # Inline as $`...`$, where Markdown leaves underscores alone; displayed in fences; no macro that GitHub refuses.
    outside = re.sub(r"```math\n.*?```", "", DERIVATION, flags=re.DOTALL)
    assert DERIVATION.count("```") == 2 * DERIVATION.count("```math") > 20
    assert "$" not in re.sub(r"\$`[^`$\n]+`\$", "", outside)
    assert not re.search(r"\\operatorname|\\tag|\\label|\\def", DERIVATION)
    for block in re.findall(r"```math\n(.*?)```", DERIVATION, re.DOTALL) + re.findall(r"\$`([^`]+)`\$", outside):
        assert block.count("{") == block.count("}"), block


def headings_of(text):
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^##? (.*)$", text, re.MULTILINE)
    }


def test_links_have_targets():
    docs = Path(__file__).parents[2] / "docs"
    for target in re.findall(r"\]\(([^)]+)\)", DERIVATION):
        path, _, anchor = target.partition("#")
        text = (docs / path).read_text("utf-8") if path else DERIVATION
        assert not anchor or anchor in headings_of(text), target


COMMANDS = sorted(set(re.findall(r"`mlpcli (explain[^`]*)`", DERIVATION)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_run(command, capsys, monkeypatch):
    monkeypatch.delenv("MLPCLI_DATA", raising=False)
    assert _run(shlex.split(command)) == 0
    assert capsys.readouterr().out
