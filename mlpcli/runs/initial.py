"""The checkpoint that a run begins from, if its config names one: ``network.init``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlpcli.config import Config
from mlpcli.errors import ConfigError, RunError, shown
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.summary import read_run


@dataclass(frozen=True)
class Origin:
    """The checkpoint file ``path`` with SHA-256 ``sha256``, whose weights a run begins from."""

    path: Path
    checkpoint: Checkpoint
    sha256: str

    def __str__(self) -> str:
        return f"{shown(self.path)}, epoch {self.checkpoint.epoch}"

    def record(self, drawn: tuple[int, ...]) -> dict[str, Any]:
        """Return its record for a manifest: hash, training data, and the layers that were drawn instead."""
        checkpoint = self.checkpoint
        return {
            "sha256": self.sha256,
            "dataset": checkpoint.dataset,
            "epoch": checkpoint.epoch,
            "drawn": [f"{array}{layer}" for layer in drawn for array in "Wb"],
        }


def find_origin(config: Config) -> Origin | None:
    """Return the checkpoint that ``config`` begins from; None if all parameters are drawn.

    All other files of a run are checked too. Raises ``RunError`` or ``ConfigError`` when the run or the checkpoint is
    missing or damaged, or is not the one of ``network.init_sha256``.
    """
    network = config.network
    if network.init is None:
        return None
    try:
        named = Path(network.init)
        if directory.is_folder(named) and directory.is_run(named):
            read_run(named)
        path = directory.find_checkpoint(named)
        checkpoint, sha256 = checkpoints.read_with_hash(path)
    except (RunError, ConfigError) as error:
        raise type(error)(f"network.init: {error}") from error
    if network.init_sha256 not in (None, sha256):
        raise RunError(
            f"network.init: {shown(path)}: is not the checkpoint named by network.init_sha256; its SHA-256 is "
            f"{sha256}; name the right one with --init"
        )
    return Origin(path, checkpoint, sha256)


def pinned(config: Config) -> Config:
    """Return ``config`` with the path and SHA-256 of its initial checkpoint, as the file at a run's path may change."""
    origin = find_origin(config)
    if origin is None:
        return config
    network = replace(config.network, init=str(origin.path), init_sha256=origin.sha256)
    return replace(config, network=network)
