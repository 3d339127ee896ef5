"""The part of a run's outcome in which equal runs must agree: all except times and environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TIMES = ("examples_per_second", "seconds")


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def outcome(run: Path) -> dict[str, Any]:
    """Return every file by name: its bytes; for metrics their values, and of the manifest only state and data.

    The losses written at intervals of time are left out.
    """
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.name != "steps.jsonl":
            found[str(path.relative_to(run))] = path.read_bytes()
    found["metrics.jsonl"] = metrics(run)
    manifest = json.loads(found["manifest.json"])
    found["manifest.json"] = {key: manifest[key] for key in ("state", "data")}
    return found
