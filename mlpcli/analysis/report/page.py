"""Sets a report: one HTML file that holds all it needs and asks the network for nothing.

The page is ``template.html`` with ``report.css`` and the scripts put in. What the run says, names and values that
anybody may have written, enters at two places only: the title, escaped as HTML, and one JSON text without any '<', from
which the scripts make text nodes. A content security policy allows these very scripts and this very style, by their
hashes, and nothing else: no address, no handler in an attribute, no form.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template

from mlpcli import __version__
from mlpcli.analysis.report.contents import Contents

HERE = Path(__file__).parent
# In the order the browser runs them: each uses the ones before it.
SCRIPTS = (
    "dom.js",
    "objectives.js",
    "network.js",
    "deskew.js",
    "ink.js",
    "pictures.js",
    "board.js",
    "outputs.js",
    "layers.js",
    "learning.js",
    "bench.js",
    "charts.js",
    "confusion.js",
    "neuron.js",
    "report.js",
)


def page(contents: Contents) -> bytes:
    """The HTML file, in UTF-8."""
    # Between the tags stands exactly what is hashed, line ends included.
    style = _text("report.css")
    scripts = [_text(name) for name in SCRIPTS]
    policy = [
        "default-src 'none'",
        f"style-src {_hashes([style])}",
        f"script-src {_hashes(scripts)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    html = Template(_text("template.html")).substitute(
        policy="; ".join(policy),
        version=escape(__version__),
        title=escape(contents.title),
        style=style,
        document=json.dumps(contents.document, allow_nan=False).replace("<", "\\u003c"),
        weights=_base64(contents.weights),
        images=_base64(contents.images),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )
    return html.encode()


def _text(name: str) -> str:
    return (HERE / name).read_text("utf-8")


def _base64(data: bytes | None) -> str:
    return b64encode(data or b"").decode()


def _hashes(texts: Iterable[str]) -> str:
    return " ".join(f"'sha256-{_base64(sha256(text.encode()).digest())}'" for text in texts)
