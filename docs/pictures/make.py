"""Makes docs/pictures/report.png: the report of a run in a browser, with a digit drawn on its board.

python docs/pictures/make.py RUN

RUN is one of the default config (mlpcli train --threads 1). It takes a Chromium and the package playwright, as the
tests do, and no network.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def curve(*points: tuple[float, float]) -> list[tuple[float, ...]]:
    """A smooth line through ``points`` in shares of the board (Catmull and Rom's)."""
    padded = [points[0], *points, points[-1]]
    line: list[tuple[float, ...]] = []
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in (i / 10 for i in range(10)):
            line.append(
                tuple(
                    0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
                    for a, b, c, d in zip(p0, p1, p2, p3, strict=True)
                )
            )
    return [*line, points[-1]]


# A four whose top is nearly closed, so that the network has something to think about.
FOUR = [
    curve((0.45, 0.22), (0.37, 0.33), (0.33, 0.46), (0.38, 0.53), (0.50, 0.51), (0.62, 0.44)),
    curve((0.60, 0.24), (0.615, 0.42), (0.59, 0.60), (0.575, 0.79)),
]


def draw(page: Page, strokes: list[list[tuple[float, ...]]]) -> None:
    """Draw ``strokes`` on the board with the mouse."""
    place = page.evaluate("byId('sheet').getBoundingClientRect()")
    for stroke in strokes:
        (x, y), *rest = [(place["left"] + x * place["width"], place["top"] + y * place["height"]) for x, y in stroke]
        page.mouse.move(x, y)
        page.mouse.down()
        for x, y in rest:
            page.mouse.move(x, y)
        page.mouse.up()


def main(run: str) -> None:
    """Write the report of ``run``, draw on it, and take its picture."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "report.html")
        subprocess.run([sys.executable, "-m", "mlpcli", "report", run, "-o", file, "--offline"], check=True)
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, device_scale_factor=1.5)
        page.goto(file.as_uri())
        draw(page, FOUR)
        page.get_by_role("radio", name="true class 4").check()
        page.mouse.move(1, 1)
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(200)
        below = page.evaluate("byId('bench').getBoundingClientRect().bottom")
        height = math.ceil(below) + 8
        page.screenshot(path=HERE / "report.png", clip={"x": 0, "y": 0, "width": 1280, "height": height})
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
