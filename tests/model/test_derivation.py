"""docs/derivation.md: its equations are those of the code, its numbers are right and its commands run."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from mlpcli.commands import _run
from mlpcli.gradcheck.probe import CENTRAL_STEPS, COMPLEX_STEP
from mlpcli.gradcheck.rows import NEGLIGIBLE, TOLERANCE
from mlpcli.model import network
from mlpcli.model.activations import SATURATED
from mlpcli.model.objectives import OBJECTIVES

DERIVATION = (Path(__file__).parents[2] / "docs" / "derivation.md").read_text("utf-8")
EQUATIONS = re.findall(r"^(.*) \\qquad \((\d+)\)$", DERIVATION, re.MULTILINE)


def test_page_and_code_have_the_same_equation_numbers():
    numbers = [int(number) for _, number in EQUATIONS]
    listed = re.findall(r"\((\d+)\)  ", network.__doc__)
    assert numbers == list(range(1, 13)) == sorted(map(int, listed))


def test_every_objective_is_derived():
    for name in OBJECTIVES:
        assert f"| `{name}` |" in DERIVATION


def stated(text):
    """Return whether the page has the formula, as mathematics, wherever its lines break."""
    return " ".join(text.split()) in " ".join(DERIVATION.split())


def test_numbers_of_the_worked_examples():
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


def test_number_of_saturation():
    assert stated(f"$`|z| = {SATURATED}`$")
    a = 1 / (1 + math.exp(-SATURATED))
    assert 0.0095 < a * (1 - a) < 0.01


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


def test_numbers_of_the_later_sections():
    assert stated("at most $`1/64`$") and 0.25**3 == 1 / 64
    slope = 0.98201379 * (1 - 0.98201379)
    assert stated("$`p = 0.982`$") and slope == pytest.approx(math.exp(-4) / (1 + math.exp(-4)) ** 2)
    assert stated(f"$`-\\ln 0.87 = {-math.log(0.87):.4f}`$")
    assert stated(f"$`C = {-math.log(0.31):.6f}`$")
    for method, power in (("Complex step", "12"), ("Central differences", "7"), ("Jacobians", "12")):
        key = {"Complex step": "complex", "Central differences": "central", "Jacobians": "jacobian"}[method]
        assert stated(f"**{method}**, tolerance $`10^{{-{power}}}`$")
        assert TOLERANCE[key] == pytest.approx(10.0 ** -int(power))
    assert COMPLEX_STEP == 1e-20 and stated("$`t`$ can be $`10^{-20}`$")
    assert NEGLIGIBLE == 1e-30 and stated("below $`10^{-30}`$ count as 0")
    assert CENTRAL_STEPS[0] == 1e-3 and stated("at $`t = 10^{-3}`$")


COMMANDS = sorted(set(re.findall(r"`mlpcli (explain[^`]*)`", DERIVATION)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_run(command, capsys, monkeypatch):
    monkeypatch.delenv("MLPCLI_DATA", raising=False)
    assert _run(shlex.split(command)) == 0
    assert capsys.readouterr().out
