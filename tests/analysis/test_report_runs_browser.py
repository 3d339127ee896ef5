"""Runs side by side in a real browser: curves, colours, folded seeds, sorting; and the page's data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from mlpcli.commands import _run
from tests.analysis.test_report_browser import CONTRASTS
from tests.conftest import BROWSER, NO_DEFAULTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian's package: chromium)"),
    pytest.mark.xdist_group("browser"),
]
WIDTHS, SEEDS = (4, 8, 12), (0, 1)
HOSTILE = "<img src=x onerror=hacked=1>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make six runs, two seeds of three widths, and one with a hostile name and damaged files."""
    folder = tmp_path_factory.mktemp("runs")
    few = ("training.epochs=3", "data.dataset=mnist-sample", "data.test=false", "training.batch_size=256", *NO_DEFAULTS)
    settings = [argument for each in few for argument in ("--set", each)]
    for width in WIDTHS:
        for seed in SEEDS:
            own = ("--set", f"network.hidden=[{width}]", "--set", f"seed={seed}")
            assert _run(["train", "--quiet", *settings, *own, "--out", str(folder / f"w{width}-{seed}")]) == 0
    shutil.copytree(folder / "w4-0", folder / HOSTILE)
    (folder / HOSTILE / "config.yaml").write_text("junk\n")
    return folder


@pytest.fixture(scope="module")
def file(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "runs.html"
    assert _run(["report", str(runs), "-o", str(path)]) == 0
    return path


@pytest.fixture
def page(browser: Browser, file: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Open the page; assert at the end that it made no other request and logged no error."""
    complaints: list[str] = []
    asked: list[str] = []
    page = browser.new_page(**getattr(request, "param", {"viewport": {"width": 1280, "height": 900}}))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_timeout(100)
    yield page
    assert (complaints, len(asked)) == ([], 1)
    page.close()


def rows(page: Page) -> list[list[str]]:
    lines = page.locator("#runs tbody tr")
    return [lines.nth(n).locator("td, th").all_inner_texts() for n in range(lines.count())]


def test_seeds_fold_to_their_mean(page: Page, runs: Path) -> None:
    assert page.locator("#fold").is_checked()
    folded = [row for row in rows(page) if row[1] == "seeds 0, 1"]
    assert sorted(row[2] for row in folded) == ["[12]", "[4]", "[8]"]
    records = [
        min(
            json.loads(line)["validation_error"]
            for line in (runs / f"w12-{seed}/metrics.jsonl").read_text().splitlines()
        )
        for seed in SEEDS
    ]
    mean = sum(records) / 2
    [wide] = [row for row in folded if row[2] == "[12]"]
    assert wide[3] == f"{100 * mean:.2f} % ({100 * min(records):.2f} % to {100 * max(records):.2f} %)"
    assert page.locator("#charts path.band").count() > 0
    page.locator("#fold").uncheck()
    assert len(rows(page)) == 7
    assert page.locator("#charts path.band").count() == 0


def test_columns_sort_by_their_heads(page: Page) -> None:
    page.locator("#fold").uncheck()
    head = page.get_by_role("button", name="parameters")
    head.click()
    found = [row[9] for row in rows(page)]
    known = [int(text.replace(",", "")) for text in found if text != "–"]
    assert known == sorted(known) == sorted(784 * w + w + 10 * w + 10 for w in (*WIDTHS, *WIDTHS))
    assert page.locator("th[aria-sort=ascending]").inner_text() == "parameters"
    page.keyboard.press("Enter")  # it keeps the focus
    falling = [int(row[9].replace(",", "")) for row in rows(page) if row[9] != "–"]
    assert falling == known[::-1]


def test_selected_run_has_colour_and_letter(page: Page) -> None:
    page.locator("#fold").uncheck()
    boxes = page.locator("#runs tbody input")
    assert sum(boxes.nth(n).is_checked() for n in range(7)) == 5
    page.get_by_role("button", name="Colour none").click()
    assert page.locator("#charts text.label").count() == 0
    page.get_by_role("checkbox", name="colour w8-1").check()
    assert page.locator("#charts text.label").all_text_contents().count("A") == 5
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "colour w8-1"
    label = str(page.locator("#charts svg").first.get_attribute("aria-label"))
    assert re.match(r"Validation error(, log scale)?, epochs 1 to 3: A from [\d.]+ % to [\d.]+ %\.", label)
    assert page.locator("#charts svg").count() == 6  # four curves, against time, against parameters


def test_each_swept_key_has_a_chart(page: Page) -> None:
    assert page.locator("#by-key figure").count() == 1
    assert "network.hidden" in page.locator("#by-key").inner_text()
    words = page.locator("#by-key svg text").all_text_contents()
    assert [text for text in words if text.startswith("[")] == ["[4]", "[8]", "[12]"]


def test_hostile_names_stay_text_among_runs(page: Page) -> None:
    page.locator("#fold").uncheck()
    assert any(HOSTILE in row[1] for row in rows(page))
    assert page.evaluate("[typeof hacked, document.images.length]") == ["undefined", 0]
    assert any("damaged" in row[-1] for row in rows(page))


@pytest.mark.parametrize(
    "page",
    [{"viewport": {"width": 360, "height": 740}, "color_scheme": scheme} for scheme in ("light", "dark")],
    indirect=True,
    ids=["light phone", "dark phone"],
)
def test_runs_are_readable_on_a_phone(page: Page) -> None:
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 60
    assert [each for each in contrasts if each[0] < 4.5] == []
    nameless = page.evaluate(
        "[...document.querySelectorAll('a, button, input, [tabindex], svg')].filter((node) => "
        "node.getClientRects().length && !(node.getAttribute('aria-label') || node.textContent.trim() || "
        "node.labels?.length)).map((node) => node.outerHTML)"
    )
    assert nameless == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["none", "."], 4, "none: no such run"),
        (["w4-0", "empty"], 4, "empty: is not a run, and contains none"),
        (["empty"], 4, "empty: is not a run, and contains none"),
        (["w4-0", "w4-0/checkpoints/last.npz"], 4, "is a checkpoint; name its run"),
        (["w4-0", "w8-0", "--split", "test"], 2, "--split does not apply to several runs"),
    ],
)
def test_side_by_side_refuses_paths_without_runs(
    arguments: list[str],
    status: int,
    message: str,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("w4-0", "w8-0"):
        (tmp_path / name).symlink_to(runs / name)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert _run(["report", *arguments]) == status
    assert message in capsys.readouterr().err
    assert not Path("report.html").exists()


def test_json_of_runs_side_by_side(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.html"
    assert _run(["report", str(runs / "w4-0"), str(runs / "w8-0"), "--json", "-o", str(path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"path": str(path), "bytes": path.stat().st_size, "runs": 2}
