"""The checkpoints that a config names: where a run begins, ``network.init``, and ``training.teacher``."""

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
    """The checkpoint file ``path`` with SHA-256 ``sha256``: of weights that a run begins from, or of a teacher."""

    path: Path
    checkpoint: Checkpoint
    sha256: str

    def __str__(self) -> str:
        return f"{shown(self.path)}, epoch {self.checkpoint.epoch}"

    @property
    def record(self) -> dict[str, Any]:
        """Return its record for a manifest: hash, training data and epoch."""
        checkpoint = self.checkpoint
        return {"sha256": self.sha256, "dataset": checkpoint.dataset, "epoch": checkpoint.epoch}


def find_origin(config: Config) -> Origin | None:
    """Return the checkpoint that ``config`` begins from; None if all parameters are drawn.

    All other files of a run are checked too. Raises ``RunError`` or ``ConfigError`` when the run or the checkpoint is
    missing or damaged, or is not the one of ``network.init_sha256``.
    """
    network = config.network
    if network.init is None:
        return None
    return _find("network.init", network.init, network.init_sha256, "network.init, or --init of runs reproduce")


def find_teachers(config: Config) -> tuple[Origin, ...]:
    """Return the checkpoints of ``training.teacher``. Raises as :func:`find_origin` does."""
    training = config.training
    names = training.teacher or ()
    hashes = training.teacher_sha256 or (None,) * len(names)
    return tuple(
        _find("training.teacher", name, sha256, "training.teacher, or --teacher of runs reproduce")
        for name, sha256 in zip(names, hashes, strict=True)
    )


def _find(key: str, name: str, required: str | None, option: str) -> Origin:
    named = Path(name)
    try:
        if directory.is_folder(named) and directory.is_run(named):
            read_run(named)
        path = directory.find_checkpoint(named)
        checkpoint, sha256 = checkpoints.read_with_hash(path)
    except (RunError, ConfigError) as error:
        moved = f"; if it was moved, name its place with {option}" if required and not directory.is_there(named) else ""
        raise type(error)(f"{key}: {error}{moved}") from error
    if required not in (None, sha256):
        raise RunError(
            f"{key}: {shown(path)}: is not the checkpoint named by {key}_sha256; its SHA-256 is {sha256}; name the "
            f"right one with {option}"
        )
    return Origin(path, checkpoint, sha256)


def pinned(config: Config) -> Config:
    """Return ``config`` with path and SHA-256 of the checkpoints it names, as the file at a run's path may change."""
    if (origin := find_origin(config)) is not None:
        network = replace(config.network, init=str(origin.path), init_sha256=origin.sha256)
        config = replace(config, network=network)
    if teachers := find_teachers(config):
        paths, hashes = (tuple(str(each.path) for each in teachers), tuple(each.sha256 for each in teachers))
        config = replace(config, training=replace(config.training, teacher=paths, teacher_sha256=hashes))
    return config
