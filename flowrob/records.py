"""Records: what a long run leaves behind, and how a file is written, whole or not at all.

    record = circumstances(started) + settings + results     ->  one JSON file, in results/
    tensors + words + the digest of both                     ->  one safetensors file (no pickle)

Every record says of itself which command made it, when, how long, with which versions and on what
machine. Numbers that JSON has no word for (infinity, NaN) are kept as the strings "inf", "nan".
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import os
import platform
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import flowrob
from flowrob._checks import checked, require


def check_writable(*paths: str | os.PathLike | None) -> None:
    """Try whether files can be written, before hours of work: makes their folders, no file.

    Args:
        *paths: where they will go; None is no file.

    Raises:
        OSError: one cannot, with its path.
    """
    for path in paths:
        if path is not None and not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be that of a file, got {path!r}")
        if path is not None:
            _begin(Path(path), ".probe").unlink()  # never the file that another run writes


def _begin(path: Path, suffix: str = ".partial") -> Path:
    """An empty file beside ``path``, with the mode that the user's umask gives."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL,
                      "is no regular file: choose the path of a file", str(path))  # fmt: skip
    partial = path.with_name(path.name + suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # what a killed run left
        partial.touch()
    except OSError as error:
        raise _unwritable(error, path) from error
    return partial


def _unwritable(error: Exception, path: Path) -> OSError:
    """What kept a file from being written, with the path that the caller knows."""
    found = re.search(r"os error (\d+)", str(error))  # as safetensors has it
    code = getattr(error, "errno", None) or (int(found.group(1)) if found else errno.EIO)
    reason = getattr(error, "strerror", None) or (os.strerror(code) if found else str(error))
    return OSError(code, f"cannot be written ({reason}): make room, or choose another place",
                   str(path))  # fmt: skip


@checked
def write_whole(path: str | os.PathLike, write: Callable[[Path], object]) -> Path:
    """``write`` a file beside its place, then move it there: a reader sees the old or the new.

    Args:
        path: where the file goes; missing folders are made. Its mode is the user's umask.
        write: called with the path to write to.

    Raises:
        OSError: it cannot be written (no room, no right, no file), with the path. What was there
            stays.
    """
    path = Path(path)
    partial = _begin(path)
    try:
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)  # some writers make files that only their owner may read
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise _unwritable(error, path) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


@checked
def digest(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """SHA-256 of all of it: the texts, and names, dtypes, shapes and numbers of the tensors."""
    found = hashlib.sha256()
    for text in texts:
        found.update(hashlib.sha256(text.encode()).digest())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


@checked
def write_tensors(
    path: str | os.PathLike, kind: str, tensors: Mapping[str, Tensor], words: Mapping[str, str]
) -> Path:
    """One safetensors file, whole or not at all, with the digest that :func:`read_tensors` checks.

    Args:
        path: where.
        kind: what the file is, "model" or "checkpoint".
        tensors: by name.
        words: texts by name, kept beside them; their order counts.

    Raises:
        OSError: as :func:`write_whole`.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"flowrob": kind, **words, "digest": digest(whole, *words.values())}
    return write_whole(path, lambda partial: save_file(whole, partial, metadata))


@checked
def read_tensors(
    path: str | os.PathLike, kind: str, words: Sequence[str]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Texts and tensors of a file, if they are what :func:`write_tensors` wrote.

    Args:
        path: of the file.
        kind: what it should be.
        words: the names of its texts, in the order in which they were written.

    Raises:
        ValueError: no file, a damaged or a foreign one, or one that was changed.
    """
    if not Path(path).is_file():  # a pipe would wait for ever
        raise ValueError(f"path {str(path)!r} is no regular file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            foreign = metadata.get("flowrob") != kind  # then its tensors are not even read
            tensors = {} if foreign else {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if foreign:
        raise ValueError(f"{path} is not a {kind} that flowrob wrote: choose another path")
    texts = {word: metadata.get(word, "") for word in words}
    if metadata.get("digest") != digest(tensors, *texts.values()):
        raise ValueError(
            f"{path} is not what flowrob wrote: its numbers or its words do not match their "
            "digest. It is damaged, was changed by hand, or is from before there were digests: "
            "take a fresh copy, or train it again"
        )
    return texts, tensors


@checked
@contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """While this runs, no other process may do the same with ``path``.

    The lock, a file beside it, ends with the process, however that ends.

    Raises:
        OSError: another run holds it.
    """
    require(os.fspath(path), "path", path, "the path of a file")
    path = Path(path)
    lock = path.with_name(path.name + ".lock")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(error, path) from error
        try:
            _lock(file)
            if lock.exists() and os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                break  # else the one before removed it in between
        except (BlockingIOError, PermissionError) as error:
            file.close()
            busy = "another run is using it: wait for its end, or choose another path"
            raise OSError(errno.EAGAIN, busy, str(path)) from error
        file.close()
    try:
        yield
    finally:
        if sys.platform != "win32":  # where an open file cannot be removed
            lock.unlink(missing_ok=True)
        file.close()


def _lock(file: IO) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise
    except OSError as error:  # some network file systems have no locks
        warnings.warn(f"{file.name}: no lock ({error}); see to it that one run alone uses it",
                      stacklevel=4)  # fmt: skip


@checked
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


@checked
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
        "duration_s": round(time.monotonic() - float(started), 1),
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


@checked
def installed(package: str) -> str | None:
    """The version of an installed package, None where there is none."""
    require(package, "package", package, "the name of a package")
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@checked
def command_line(program: str, argv: Sequence[str]) -> str:
    """What was typed, without the folders, which mean nothing elsewhere.

    >>> command_line("python -m flowrob", ["table", "1", "--data", "cifar10=a/b.npz"])
    'python -m flowrob table 1 --data cifar10=b.npz'
    """
    argv, words = [*argv], []
    require(all(isinstance(word, str) for word in argv), "argv", argv, "words")
    for word in argv:
        name, equals, path = word.rpartition("=")  # as in --data celeba=folder/faces.npz
        words.append(name + equals + os.path.basename(path) if os.sep in path else word)
    return f"{program} {shlex.join(words)}"
