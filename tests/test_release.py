"""The changelog and the citation have the version of the package."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from mlpcli import __version__

ROOT = Path(__file__).parents[1]


def test_changelog_and_citation_have_this_version() -> None:
    released = re.findall(r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version, date = released[0]
    assert version == __version__
    assert (citation["version"], str(citation["date-released"])) == (version, date)
    assert sorted(released, key=lambda each: each[1], reverse=True) == released
