"""MkDocs hooks: the repository's Markdown, written for GitHub, as a site that fetches nothing.

README.md is the first page. A page may link to any file or folder of the repository: a Markdown file outside docs/
becomes a page, a source file a page under source/, and a folder a list of what is in it. A link to nothing stays as it
is, and ``mkdocs build --strict`` reports it.
"""

from __future__ import annotations

import importlib.metadata
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[1]
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")  # in mkdocs.yml's nav
LINK = re.compile(r"(?<=\]\()[^)\s#:]+(?=(#[^)\s]*)?\))")  # the path in [text](path#anchor); a URL has a colon
FORMULA = re.compile(r"\$`([^`]+)`\$")
MATHJAX = ("mathjax.js", "tex-svg.js")  # the settings, a file of docs/, and the library
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}
FRONT_MATTER = "---\nsearch: {exclude: true}\nhide: [toc]\n---\n"  # of pages of source

_paths: dict[str, str] = {}  # the page that the site has under a URI -> the path in the repository


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, whatever they and the others link to, and MathJax."""
    _paths.clear()
    waiting = [*OUTSIDE, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    while waiting:
        path = waiting.pop()
        uri = _uri(path)
        if uri in _paths or not uri.endswith(".md"):
            continue
        _paths[uri] = path
        text = _markdown(path)
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=text))
        if not _is_source(path):
            waiting += [target for link in LINK.finditer(text) if (target := _target(path, link[0]))]
    package = importlib.metadata.files("sphinx-mathjax-offline") or []
    [library] = [file for file in package if file.name == MATHJAX[1]]
    files.append(File.generated(config, MATHJAX[1], content=library.read_binary()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's pages, and write GitHub's formulas as arithmatex reads them."""
    path = _paths[page.file.src_uri]
    if _is_source(path):
        return markdown

    def moved(link: re.Match[str]) -> str:
        target = _target(path, link[0])
        return posixpath.relpath(_uri(target), posixpath.dirname(page.file.src_uri) or ".") if target else link[0]

    return FORMULA.sub(r"\\(\1\\)", LINK.sub(moved, markdown))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Load MathJax where there is a formula."""
    if 'class="arithmatex"' not in output:
        return output
    scripts = "".join(f'<script src="{get_relative_url(name, page.url)}"></script>' for name in MATHJAX)
    return output.replace("</body>", f"{scripts}</body>")


def _target(path: str, link: str) -> str | None:
    """Return the path in the repository that ``link``, on the page of ``path``, leads to; None if to nothing."""
    base = path if (ROOT / path).is_dir() else posixpath.dirname(path)
    target = posixpath.normpath(posixpath.join(base, link))
    return target if not target.startswith("..") and (ROOT / target).exists() else None


def _uri(path: str) -> str:
    """Return where the site has the file or folder ``path`` of the repository."""
    if path == "README.md":
        return "index.md"
    if (ROOT / path).is_dir():
        return _uri(f"{path}/README.md") if (ROOT / path / "README.md").exists() else f"source/{path}/index.md"
    return f"source/{path}.md" if _is_source(path) else path.removeprefix("docs/")


def _is_source(path: str) -> bool:
    return (ROOT / path).is_file() and not path.endswith(".md") and not path.startswith("docs/")


def _markdown(path: str) -> str:
    file = ROOT / path
    if file.is_dir():
        names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in file.iterdir())
        items = "\n".join(f"- [{name}]({name})" for name in names if not name.startswith((".", "__pycache__")))
        return f"{FRONT_MATTER}# {path}/\n\n{items}\n"
    text = file.read_text("utf-8")
    if not _is_source(path):
        return text
    return f"{FRONT_MATTER}# {path}\n\n````{LANGUAGES.get(file.suffix, 'text')}\n{text}````\n"
