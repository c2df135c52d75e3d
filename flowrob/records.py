"""Records: what a long run leaves behind, and how a file is written, whole or not at all.

    record = circumstances(started) + settings + results     ->  one JSON file, in results/

Every record says of itself which command made it, when, how long, with which versions and on what
machine. Numbers that JSON has no word for (infinity, NaN) are kept as the strings "inf", "nan".
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import flowrob


def write_whole(path: str | os.PathLike, write: Callable[[Path], object]) -> Path:
    """``write`` a file beside its place, then move it there: a reader sees the old or the new.

    Args:
        path: where the file goes; missing folders are made.
        write: called with the path to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)
    return path


def write_json(path: str | os.PathLike | None, content: Mapping) -> None:
    """``content`` as JSON, whole or not at all; no path, no file."""
    if path is not None:
        text = as_json(content) + "\n"
        write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def as_json(content: object) -> str:
    """Strict JSON, one blank of indentation a level.

    >>> print(as_json({"mean": float("inf"), "eps": (0, 8)}).replace(chr(10), " "))
    {  "mean": "inf",  "eps": [   0,   8  ] }
    """
    return json.dumps(plain(content), indent=1, allow_nan=False)


def plain(value: object) -> object:
    """The same as data that strict JSON can hold: lists, text keys, "inf" and "nan" as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and value - value != 0.0:  # infinite, or NaN
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def circumstances(
    started: float, command: str, packages: Sequence[str] = ("numpy",), processes: int = 1
) -> dict:
    """Command, date, duration, versions and machine of a run.

    Args:
        started: ``time.monotonic()`` when it began.
        command: from :func:`command_line`.
        packages: whose versions matter, beside flowrob's, Python's and PyTorch's; those that are
            not installed are left out.
        processes: how many worked on it together.
    """
    device = flowrob.device()
    found = {name: installed(name) for name in packages}
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "duration_s": round(time.monotonic() - started, 1),
        "versions": {
            "flowrob": flowrob.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: number for name, number in found.items() if number},
        },
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": processes,
        },
    }


def installed(package: str) -> str | None:
    """The version of an installed package, None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def command_line(program: str, argv: Sequence[str]) -> str:
    """What was typed, without the folders, which mean nothing elsewhere.

    >>> command_line("python -m flowrob", ["table", "1", "--data", "cifar10=a/b.npz"])
    'python -m flowrob table 1 --data cifar10=b.npz'
    """
    words = []
    for word in argv:
        name, equals, path = word.rpartition("=")  # as in --data celeba=folder/faces.npz
        words.append(name + equals + os.path.basename(path) if os.sep in path else word)
    return f"{program} {shlex.join(words)}"
