from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlpcli.parallel import choose
from mlpcli.parallel.choose import choose_processes, choose_threads, current_load, step_seconds

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes must fork")


@pytest.mark.parametrize(("cores", "load"), [(1, 0.0), (2, 2.0), (2, 7.5), (16, 16.0)])
def test_one_process_without_free_cores(cores, load):
    assert choose_processes([800], 128, distorted=True, cores=cores, load=load).number == 1


@forks
def test_small_steps_get_one_process():
    choice = choose_processes([30], 10, distorted=False, cores=2, load=0.0)
    assert choice.number == 1
    assert "two would take" in choice.reason


@forks
@pytest.mark.parametrize(
    ("hidden", "batch", "distorted"), [([512], 128, False), ([800], 128, True), ([2048], 64, False)]
)
def test_large_steps_get_every_core(hidden, batch, distorted):
    choice = choose_processes(hidden, batch, distorted=distorted, cores=2, load=0.5)
    assert choice.number == 2
    assert "on 2 cores" in choice.reason


@forks
def test_choice_is_near_the_shortest_step():
    for cores in (2, 8, 64, 100):
        for batch in (1, 64, 4096):
            choice = choose_processes([100, 50], batch, distorted=False, cores=cores, load=0.0).number
            seconds = [step_seconds([100, 50], batch, n, cores) for n in range(1, min(cores, 64) + 1)]
            assert seconds[choice - 1] <= 1.05 * min(seconds)
            assert all(each > 1.05 * min(seconds) for each in seconds[: choice - 1])


def test_more_work_takes_longer():
    base = step_seconds([100], 64, 2, 4)
    assert step_seconds([200], 64, 2, 4) > base
    assert step_seconds([100, 100], 64, 2, 4) > base
    assert step_seconds([100], 128, 2, 4) > base
    assert step_seconds([100], 64, 2, 4, distorted=True) > base
    assert step_seconds([100], 64, 2, 4, adversarial=True) > base


@pytest.mark.parametrize(
    ("hidden", "adversarial", "barriers"), [([100], False, 3), ([100, 100], False, 5), ([100], True, 8)]
)
def test_barriers_of_a_step_are_those_of_the_derivation(monkeypatch, hidden, adversarial, barriers):
    def seconds(barrier):
        monkeypatch.setattr(choose, "BARRIER", barrier)
        return step_seconds(hidden, 64, 2, 2, adversarial=adversarial)

    assert seconds(1.0) - seconds(0.0) == pytest.approx(barriers)


@pytest.mark.parametrize(("cores", "load", "threads"), [(2, 1.9, 2), (2, 2.0, 1), (16, 15.0, 16), (16, 40.0, 1)])
def test_one_thread_on_a_busy_machine(cores, load, threads):
    choice = choose_threads(cores=cores, load=load)
    assert choice.number == threads
    assert ("busy" in choice.reason) == (threads == 1)


def test_one_core_is_one_thread_without_reproach():
    assert choose_threads(cores=1, load=5.0) == (1, "one per core")


def test_load_is_at_most_the_last_minute_and_what_runs_now(monkeypatch):
    # On an idle machine right after a long run the average is still high; at the start of many it is still low.
    monkeypatch.setattr(os, "getloadavg", lambda: (0.25, 0.0, 0.0))
    assert current_load() <= 0.25
    monkeypatch.setattr(os, "getloadavg", lambda: (1e6, 0.0, 0.0))
    if Path("/proc/loadavg").exists():
        assert 0 <= current_load() < 1e6
