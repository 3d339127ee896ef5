"""Display of training: a bar on a terminal, and a line per epoch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlpcli.commands.output import harmless, say
from mlpcli.commands.progress import Terminal, download_progress
from mlpcli.datasets.load import Dataset
from mlpcli.experiment import Observer
from mlpcli.runs.environment import threads
from mlpcli.runs.layout import resume_command
from mlpcli.state import EpochRecord
from mlpcli.training.connections import parameters_in_words
from mlpcli.training.trainer import Trainer


class Screen(Observer):
    """An observer that shows a run on stderr; with ``quiet`` only warnings. ``run`` is its path once there is one.

    ``begun`` is called with that path.
    """

    def __init__(self, *, quiet: bool, begun: Callable[[Path], None] | None = None) -> None:
        self._begun = begun
        self.run: Path | None = None
        self._quiet = quiet
        self._epochs = 0
        self._trainer: Trainer | None = None
        self._bar: Any = None
        self._terminal = Terminal()
        if not quiet:
            self.progress = download_progress()

    def say(self, message: str) -> None:
        """Show a message for the user."""
        if self._bar is None:
            say(message)
        else:
            self._bar.write(harmless(message), file=self._terminal)

    def begin(self, run: Path, trainer: Trainer, dataset: Dataset) -> None:
        """Show that training begins, or is resumed."""
        self.run = run
        if self._begun is not None:
            self._begun(run)
        if self._quiet:
            return
        architecture, state = trainer.architecture, trainer.state
        self._trainer = trainer
        self._epochs = trainer.max_epochs
        held_out = f", {len(dataset.validation):,} validation" if dataset.validation else ""
        sizes = "-".join(map(str, architecture.sizes))
        hidden = [architecture.activation.name] if len(architecture.sizes) > 2 else []
        form = ", ".join([sizes, *hidden, architecture.objective.name])
        say(f"data     {dataset.name}: {len(dataset.train):,} training{held_out} images")
        say(f"network  {form}; {parameters_in_words(len(state.theta.vector), trainer.connections)}")
        say(f"run      {run}" + (f", from epoch {state.epoch} on" if state.epoch else ""))
        if trainer.group.size > 1:
            each = threads()
            line = f"workers  {trainer.group.size} processes, {each} BLAS thread{'s' if each > 1 else ''} each"
            if trainer.group.aborts_as_one:
                # A killed process cannot print this, nor can the others, which the launcher kills.
                line += f"; if one is killed: {resume_command(run, trainer.group.command)}"
            say(line)
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._epochs * trainer.steps_per_epoch,
                initial=state.step,
                unit="batch",
                dynamic_ncols=True,
                leave=False,
                file=self._terminal,
            )

    def step(self, loss: float) -> None:
        """Show that a mini-batch is done."""
        if self._bar is not None and self._bar.update(1):
            self._bar.set_postfix_str(f"loss {_short(loss)}", refresh=False)

    def epoch(self, record: EpochRecord, best: bool) -> None:
        """Show that an epoch is done and saved."""
        if self._quiet:
            return
        validation = "" if record.validation_error is None else f"  validation {record.validation_error:6.2%}"
        line = (
            f"epoch {record.epoch:>{len(str(self._epochs))}}/{self._epochs}  loss {_short(record.train_loss)}  "
            f"train {record.train_error:6.2%}{validation}  {record.examples_per_second:,.0f} images/s"
            f"{'  best' if best else ''}"
        )
        if self._bar is None:
            say(line)
        else:
            self._bar.write(line, file=self._terminal)

    def end(self) -> None:
        """Remove the bar when training has ended for any reason."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        trainer, self._trainer = self._trainer, None
        if trainer is not None and trainer.finished and trainer.state.epoch < self._epochs:
            used = trainer.state.epochs_since_best
            say(f"stopped  no better validation error in {used} epoch{'s' if used > 1 else ''}: training.patience")


def _short(loss: float) -> str:
    return f"{loss:.4f}" if loss < 1e6 else f"{loss:.2e}"
