"""The environment of a run: versions, processor, BLAS and its threads; no host, user or path."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from mlpcli import __version__

# The first variable that is set decides, as in OpenBLAS; MKL and Accelerate have their own. They must be set before
# numpy is loaded, so this module does not import numpy when it is imported.
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


MAX_THREADS = 1024
MAX_MANIFEST_BYTES = 16 * 1024 * 1024

# The number of processes that trained together and how they communicated; missing for one process.
PROCESSES = "processes"


def environment(processes: int | str = 1) -> dict[str, Any]:
    """Return versions, processor, BLAS and threads as plain values; equal environments compute the same bytes."""
    import numpy as np

    from mlpcli.model.blas import routine

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "mlpcli": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
        + ("" if all(routine(name, "f") for name in ("gemm", "gemv", "axpy", "axpby")) else ", by numpy alone"),
        "threads": threads(),
        **({PROCESSES: processes} if processes != 1 else {}),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
    }


def threads() -> int:
    """Return the number of threads BLAS is set to use, else the number of cores available to this process."""
    for name in THREAD_VARIABLES:
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def recorded_threads(run: Path) -> int | None:
    """Return the number of threads the run ``run`` was started with; None if its manifest lacks a valid one."""
    from mlpcli.files import Folder

    try:
        with Folder(run) as folder:
            threads = json.loads(folder.read("manifest.json", MAX_MANIFEST_BYTES))["environment"]["threads"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return threads if type(threads) is int and 1 <= threads <= MAX_THREADS else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
