"""An observer of training that tests read and interrupt."""

from __future__ import annotations

from mlpcli.experiment import Observer


class Listener(Observer):
    """Keep the messages and the initial parameters; interrupt training after ``stop_after`` epochs."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.messages: list[str] = []
        self._stop_after = stop_after

    def say(self, message: str) -> None:
        self.messages.append(message)

    def begin(self, run, trainer, dataset):
        self.theta = trainer.state.theta.vector.copy()
        if self._stop_after == 0:
            raise KeyboardInterrupt

    def epoch(self, record, best):
        if record.epoch == self._stop_after:
            raise KeyboardInterrupt
