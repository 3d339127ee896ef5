"""One HTML file that contains all it needs and makes no requests.

The page is a template with ``report.css`` and the scripts inserted: ``template.html`` for one run, ``runs.html`` for
several side by side. The contents of a run, names and values that anybody may have written, enter at two points only:
the title, escaped as HTML, and one JSON text without any '<', which the scripts turn into text nodes. A content
security policy allows these scripts and this style by their hashes, and nothing else: no address, no handler in an
attribute, no form. A live page, served while a run is trained, is the same page with one more script, and may connect
to its own server.
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
# In the order the browser runs them: each uses those before it.
SCRIPTS = (
    "dom.js",
    "shared.js",
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
RUNS_SCRIPTS = ("dom.js", "shared.js", "charts.js", "runs.js", "runs-page.js")
LIVE_SCRIPTS = {"template.html": ("live.js", "live-run.js"), "runs.html": ("live.js", "live-runs.js")}


def page(contents: Contents, live: bool = False) -> bytes:
    """Make the HTML file of one run, in UTF-8."""
    data = {"weights": base64(contents.weights), "images": base64(contents.images)}
    return _set("template.html", SCRIPTS, contents.title, contents.document, live, data)


def runs_page(document: dict[str, Any], live: bool = False) -> bytes:
    """Make the HTML file, in UTF-8, of a document of :mod:`mlpcli.analysis.report.side_by_side`."""
    return _set("runs.html", RUNS_SCRIPTS, document["title"], document, live, {})


def policy_of(html: bytes) -> str:
    """Return the content security policy in the head of ``html``, one of these pages."""
    [policy] = re.findall(rb'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    return str(policy.decode())


def json_text(document: Any) -> str:
    """Return ``document`` as JSON in one line that can be placed between tags."""
    return json.dumps(document, allow_nan=False).replace("<", "\\u003c")


def base64(data: bytes | None) -> str:
    """Return ``data`` as text; an empty text for None."""
    return b64encode(data or b"").decode()


def _set(
    template: str, names: Iterable[str], title: str, document: dict[str, Any], live: bool, data: dict[str, str]
) -> bytes:
    # The text between the tags is exactly the text that is hashed, line ends included.
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
