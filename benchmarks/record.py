"""What every file in results/ says of itself: command, date, duration, versions, machine."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version


def installed(package: str) -> str | None:
    """The version of an installed package, None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def record(started: float, packages: tuple[str, ...] = ("torch", "numpy")) -> dict:
    """The facts of a run that began at ``time.perf_counter() == started``."""
    found = {name: installed(name) for name in packages}
    return {
        "command": "python benchmarks/"
        + shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "duration_s": round(time.perf_counter() - started, 1),
        "versions": {
            "python": platform.python_version(),
            **{name: number for name, number in found.items() if number},
        },
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "unset"),
        },
    }
