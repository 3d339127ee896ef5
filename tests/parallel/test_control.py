"""Environment variables that launchers set, and a group of one process."""

from __future__ import annotations

import pytest

from mlpcli.parallel.control import SINGLE, launched


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, (3, 4)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, (0, 2)),
        ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"}, (1, 2)),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, (5, 8)),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # a batch script's own process
        ({"PMI_SIZE": "many", "PMI_RANK": "0"}, None),
        ({"PMI_RANK": "0"}, None),
    ],
)
def test_launcher_sets_rank_and_size(environment: dict[str, str], expected: tuple[int, int] | None):
    assert launched(environment) == expected


def test_single_process_is_a_group_of_one():
    with SINGLE as group:
        group.start_workers(None)  # type: ignore[arg-type]
        assert (group.rank, group.size, group.label, group.wait_for_job()) == (0, 1, 1, None)
        assert [group.continue_training(wanted) for wanted in (True, False)] == [True, False]
        with group.collective():
            group.raise_if_stopped()
