"""The live page in a real browser: a run is trained, watched, drawn on, killed, resumed and finished."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from mlpcli import experiment
from mlpcli.analysis.evaluate_runs import evaluate_runs
from mlpcli.analysis.evaluation import open_model
from mlpcli.errors import DivergedError
from tests.analysis.test_report_browser import CONTRASTS, DIGITS, Sheet
from tests.conftest import BROWSER
from tests.watch.watching import ROOT, SECONDS, Watching, environment, kill, watching

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian's package: chromium)"),
    pytest.mark.skipif(not Path("/proc/locks").exists(), reason="finds who trains a run by /proc"),
    pytest.mark.xdist_group("browser"),
]
LONG = int(1000 * SECONDS)
# An epoch of some seconds: batches of one image, and a wide layer.
SLOW = ("data.dataset=mnist-sample", "network.hidden=[500]", "training.batch_size=1", "training.learning_rate=0.02")
FEW = ("data.dataset=mnist-sample", "network.hidden=[8]", "training.epochs=2", "data.test=false")


def settings(*overrides: str) -> list[str]:
    return [argument for each in overrides for argument in ("--set", each)]


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Open a page; assert at the end that it contacted only its server and logged no error."""
    wrong: list[str] = []
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1280, "height": 900}}))
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: "Content Security" in message.text and wrong.append(message.text))
    page.on("request", lambda request: request.url.startswith("http://127.0.0.1:") or wrong.append(request.url))
    yield page
    assert wrong == []
    context.close()


def go(page: Page, watched: Watching) -> Sheet:
    page.goto(watched.address)
    return Sheet(page)


def state(page: Page) -> Any:
    return page.locator("#live .badge")


def words(page: Page) -> Any:
    return page.locator("#live .words")


def test_page_follows_a_run_through_kill_and_resume(page: Page, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = (*SLOW, "training.epochs=40", "training.schedule=constant")
    with watching("--watch", "--no-open", "--quiet", *settings(*slow), "--out", run, command="train") as first:
        sheet = go(page, first)
        expect(state(page)).to_have_text("Training", timeout=LONG)
        # Within the first epoch the curve moves, and the board is not ready.
        expect(page.locator("#charts path.steps")).to_have_attribute("d", re.compile("L.*L"), timeout=LONG)
        if sheet.evaluate("run.epochs.length") == 0:
            assert page.locator("#no-board").inner_text().startswith("No epoch is completed")
        expect(words(page)).to_have_text(
            re.compile(r"^epoch \d+ of 40 · [\d,]+ images a second · .* left$"), timeout=LONG
        )
        # The drawn digit is classified by the newest network after every epoch, without drawing it again.
        expect(page.locator("#sheet")).to_be_visible(timeout=LONG)
        sheet.draw(DIGITS[3])
        before, p = sheet.evaluate("run.checkpoint.epoch"), sheet.p
        expect(page.locator("#summary")).to_contain_text(re.compile(rf"of epoch (?!{before}\b)\d+$"), timeout=LONG)
        sheet.settle()
        assert (sheet.p != p).any()
        np.testing.assert_allclose(sheet.p.sum(), 1)
        expect(page.locator("#changing li")).to_have_count(12, timeout=LONG)
        assert page.locator("#matrix button").count() > 10
        assert page.locator("#worst button").count() > 0
        length = sheet.evaluate("steps.at.length")
        assert length > 3 and sheet.evaluate("steps.at.every((at, n) => n === 0 || at > steps.at[n - 1])")
        kill(run)
        expect(state(page)).to_have_text("Stopped", timeout=LONG)
        expect(words(page)).to_contain_text("stopped or killed")
        expect(words(page)).to_contain_text(f"to reload it, run mlpcli watch {run}", timeout=LONG)
        assert page.locator("#live code").first.inner_text() == f"mlpcli train --resume {run}"
        assert page.locator("#live code").last.inner_text() == f"mlpcli report {run}"
        # The page still works: it can be drawn on.
        sheet.evaluate("bench.board.clear()")
        sheet.draw(DIGITS[1])
        assert sheet.verdict.isdigit()
    with watching(run, "--no-open") as second:
        sheet = go(page, second)
        expect(state(page)).to_have_text("Stopped", timeout=LONG)
        done = len((run / "metrics.jsonl").read_text().splitlines())
        # Long enough for the page to notice the resumed run, on a fast machine too.
        resume = ["train", "--quiet", "--resume", str(run), "--set", f"training.epochs={done + 8}"]
        child = subprocess.Popen(
            [sys.executable, "-m", "mlpcli", *resume], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
        )
        try:
            expect(state(page)).to_have_text("Training", timeout=LONG)
            expect(words(page)).to_contain_text("resumed after epoch", timeout=LONG)
            assert child.wait(SECONDS) == 0
        finally:
            child.kill()
        expect(state(page)).to_have_text("Finished", timeout=LONG)
        assert page.locator("#live code").inner_text() == f"mlpcli report {run}"
        # At the end it shows what a report shows.
        expect(page.locator("#summary")).to_contain_text("best", timeout=LONG)
        wanted = evaluate_runs([run], "validation").individual[0]
        expect(page.locator("#evaluation")).to_contain_text(f"{wanted.errors} error", timeout=LONG)
        theta = [array for _, array in open_model(run).checkpoint.parameters.tensors()]
        shown = np.array(json.loads(sheet.evaluate("JSON.stringify(Array.from(network.W[0].slice(0, 500)))")))
        np.testing.assert_allclose(shown, theta[0][0], rtol=1e-6)
        shutil.rmtree(run)
        expect(state(page)).to_have_text("Removed", timeout=LONG)
        assert second.process.stderr is not None
        assert second.process.stderr.readline() == f"{run}: was removed or moved away; its page shows the last state\n"
        assert second.process.poll() is None


def test_steps_and_choices_survive_newer_weights(page: Page, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = (*FEW, "training.schedule=constant", "training.warmup_epochs=0")
    experiment.train(None, overrides, out=run)
    with watching(run, "--no-open") as watched:
        sheet = go(page, watched)
        expect(page.locator("#sheet")).to_be_visible(timeout=LONG)
        sheet.draw(DIGITS[7])
        page.get_by_role("radio", name="true class 2").check()
        page.get_by_role("button", name="Ten times").click()
        taught = sheet.evaluate("JSON.stringify(Array.from(bench.network.vector))")
        cell = page.locator("#matrix button").nth(3)
        label = str(cell.get_attribute("aria-label")).split(":")[0]
        cell.click()
        before = sheet.evaluate("JSON.stringify(Array.from(network.vector))")
        experiment.resume(run, ["training.epochs=6"])
        expect(page.locator("#epochs tbody tr")).to_have_count(6, timeout=LONG)
        expect(page.locator("#evaluation")).not_to_contain_text(re.compile("epoch [12]\\.$"), timeout=LONG)
        assert sheet.evaluate("JSON.stringify(Array.from(network.vector))") != before
        assert sheet.evaluate("JSON.stringify(Array.from(bench.network.vector))") == taught
        assert page.get_by_role("radio", name="true class 2").is_checked()
        assert (
            page.locator("#cell-title").inner_text().startswith(label)
            or label not in page.locator("#matrix").inner_html()
        )
        page.get_by_role("button", name="Reset").click()
        same = "bench.network.vector.every((value, n) => value === network.vector[n])"
        assert sheet.evaluate(same)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        experiment.train(None, (*FEW, f"seed={seed}"), out=folder / f"seed-{seed}")
    return folder


def test_folder_has_all_runs_and_a_page_for_each(page: Page, folder: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(folder, tmp_path / "runs")
    with watching(runs, "--no-open") as watched:
        go(page, watched)
        expect(page.locator("#runs tbody tr")).to_have_count(1, timeout=LONG)
        page.locator("#fold").uncheck()
        expect(page.locator("#runs tbody tr")).to_have_count(2)
        experiment.train(None, (*FEW, "network.hidden=[4]"), out=runs / "narrow")
        expect(page.locator("#runs tbody tr")).to_have_count(3, timeout=LONG)
        assert not page.locator("#fold").is_checked()
        page.get_by_role("link", name="narrow").click()
        expect(state(page)).to_have_text("Finished", timeout=LONG)
        expect(page.locator("h1")).to_have_text("narrow")
        # The other curves are grey until one is selected.
        page.get_by_text("2 other runs in the folder").click()
        assert page.locator("#charts path.other").count() == 4
        page.get_by_role("checkbox", name="colour seed-1").check()
        expect(page.locator("#charts path.other")).to_have_count(2)
        expect(page.locator("#charts text.label.r0").first).to_have_text("A")
        page.get_by_role("link", name="seed-0").click()
        expect(page.locator("h1")).to_have_text("seed-0")
        expect(state(page)).to_have_text("Finished", timeout=LONG)


SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 740}}
THEMES = [
    pytest.param({"viewport": size, "color_scheme": scheme, "reduced_motion": "reduce"}, id=f"{scheme} {name}")
    for name, size in SIZES.items()
    for scheme in ("light", "dark")
]


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Watching]:
    with watching(folder / "seed-0", "--no-open") as watched:
        yield watched


@pytest.mark.parametrize("page", THEMES, indirect=True)
def test_page_is_readable_in_every_theme(page: Page, served: Watching) -> None:
    sheet = go(page, served)
    expect(page.locator("#sheet")).to_be_visible(timeout=LONG)
    sheet.draw(DIGITS[3])
    page.locator("#beside summary").click()
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert sheet.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    contrasts = sheet.evaluate(CONTRASTS)
    assert len(contrasts) > 150
    assert [each for each in contrasts if each[0] < 4.5] == []
    assert sheet.evaluate("document.getAnimations().length") == 0
    nameless = sheet.evaluate(
        "[...document.querySelectorAll('a, button, input, [tabindex], canvas, svg, [role=progressbar]')]"
        ".filter((node) => node.getClientRects().length && !(node.getAttribute('aria-label') "
        "|| node.textContent.trim() || node.closest('[aria-hidden], label') || node.labels?.length))"
        ".map((node) => node.outerHTML)"
    )
    assert nameless == []
    ids = sheet.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len({*ids})


def test_states_are_announced_to_screen_readers(page: Page, served: Watching) -> None:
    go(page, served)
    expect(page.locator("#status")).to_have_text(re.compile("^Finished"), timeout=LONG)
    assert page.title().startswith("Finished: seed-0")
    bar = page.locator("#live [role=progressbar]")
    assert bar.get_attribute("aria-valuetext") == "2 of 2 epochs"


def test_lost_server_is_reported(page: Page, folder: Path) -> None:
    with watching(folder / "seed-1", "--no-open") as watched:
        go(page, watched)
        expect(state(page)).to_have_text("Finished", timeout=LONG)
        watched.process.kill()
        expect(state(page)).to_have_text("No connection", timeout=LONG)
        assert f"to reload it, run mlpcli watch {folder / 'seed-1'}" in words(page).inner_text()


def test_divergence_is_shown_while_watched(page: Page, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    experiment.train(None, FEW, out=runs / "good")
    with watching(runs, "--no-open") as watched:
        go(page, watched)
        expect(page.locator("#runs tbody tr")).to_have_count(1, timeout=LONG)
        expect(page.locator("#live code")).to_have_text(f"mlpcli report {runs}")
        with pytest.raises(DivergedError):
            experiment.train(None, (*FEW, "training.learning_rate=1e30"), out=runs / "bad")
        expect(page.locator("#runs tbody tr")).to_have_count(2, timeout=LONG)
        page.get_by_role("link", name="bad").click()
        expect(state(page)).to_have_text("Diverged", timeout=LONG)
        expect(words(page)).to_contain_text("after 0 epochs")
        # Without a checkpoint there is no network and no report.
        expect(page.locator("#no-board")).to_have_text("No epoch is completed, so there is no network to show.")
        expect(page.locator("#live code")).to_have_count(0)
