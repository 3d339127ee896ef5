"""Sets a report: one HTML file that holds all it needs and asks the network for nothing.

The page is a template with ``report.css`` and the scripts put in: ``template.html`` of one run, ``runs.html`` of
several side by side. What the run says, names and values that anybody may have written, enters at two places only: the
title, escaped as HTML, and one JSON text without any '<', from which the scripts make text nodes. A content security
policy allows these very scripts and this very style, by their hashes, and nothing else: no address, no handler in an
attribute, no form. A live page, which is served while a run is trained, is the same page with a script more, and may
listen to the server that it came from.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from mlpcli import __version__
from mlpcli.analysis.report.contents import Contents

HERE = Path(__file__).parent
# In the order the browser runs them: each uses the ones before it.
SCRIPTS = (
    "dom.js",
    "looks.js",
    "objectives.js",
    "network.js",
    "deskew.js",
    "ink.js",
    "pictures.js",
    "board.js",
    "outputs.js",
    "graph.js",
    "layers.js",
    "learning.js",
    "bench.js",
    "charts.js",
    "confusion.js",
    "neuron.js",
    "report.js",
)
RUNS_SCRIPTS = ("dom.js", "looks.js", "charts.js", "runs.js", "runs-page.js")
LIVE_SCRIPTS = {"template.html": ("live.js", "live-run.js"), "runs.html": ("live.js", "live-runs.js")}


def page(contents: Contents, live: bool = False) -> bytes:
    """The HTML file of one run, in UTF-8."""
    data = {"weights": base64(contents.weights), "images": base64(contents.images)}
    return _set("template.html", SCRIPTS, contents.title, contents.document, live, data)


def runs_page(document: dict[str, Any], live: bool = False) -> bytes:
    """The HTML file of runs side by side, of a document of :mod:`mlpcli.analysis.report.side_by_side`, in UTF-8."""
    return _set("runs.html", RUNS_SCRIPTS, document["title"], document, live, {})


def policy_of(html: bytes) -> str:
    """The content security policy that ``html``, one of these pages, has in its head."""
    [policy] = re.findall(rb'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    return str(policy.decode())


def json_text(document: Any) -> str:
    """``document`` as JSON that can stand between tags, and in one line."""
    return json.dumps(document, allow_nan=False).replace("<", "\\u003c")


def base64(data: bytes | None) -> str:
    """``data`` as text; nothing where there are none."""
    return b64encode(data or b"").decode()


def _set(
    template: str, names: Iterable[str], title: str, document: dict[str, Any], live: bool, data: dict[str, str]
) -> bytes:
    # Between the tags stands exactly what is hashed, line ends included.
    style = _text("report.css")
    scripts = [_text(name) for name in (*names, *(LIVE_SCRIPTS[template] if live else ()))]
    policy = [
        "default-src 'none'",
        f"style-src {_hashes([style])}",
        f"script-src {_hashes(scripts)}",
        *(["connect-src 'self'"] if live else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    html = Template(_text(template)).substitute(
        policy="; ".join(policy),
        version=escape(__version__),
        title=escape(title),
        style=style,
        document=json_text(document),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        **data,
    )
    return html.encode()


def _text(name: str) -> str:
    return (HERE / name).read_text("utf-8")


def _hashes(texts: Iterable[str]) -> str:
    return " ".join(f"'sha256-{base64(sha256(text.encode()).digest())}'" for text in texts)
