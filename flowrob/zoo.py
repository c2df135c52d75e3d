"""Weights that ship with the package, each with the recipe that made it.

A model is one safetensors file (no pickle): the tensors, and in the metadata the constructor call
(``config``), how it was trained (``recipe``), and a digest of all three, which is checked whenever
the file is read: a damaged file never loads as another model. Nothing is built before the numbers
in ``config`` are held against the tensors beside them. A mixture of models is a JSON file
that names the files of its parts, which lie beside it.

>>> flow = load("glow-photos-clean")
>>> flow.event_shape
(3, 32, 32)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

import flowrob
from flowrob import flows
from flowrob._checks import checked
from flowrob.flows import Flow, FlowMixture
from flowrob.records import read_tensors, write_json, write_tensors

_WEIGHTS = Path(__file__).parent / "weights"
_SUFFIXES = (".safetensors", ".json")
_BUILDERS = {"glow": flows.glow, "realnvp": flows.realnvp, "plane_flow": flows.plane_flow}


def names() -> list[str]:
    """The models that ship with the package.

    >>> "glow-photos-clean" in names()
    True
    """
    return sorted(path.stem for suffix in _SUFFIXES for path in _WEIGHTS.glob(f"*{suffix}"))


def _path(name: str | os.PathLike) -> Path:
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"name must be one of {names()}, or a path, got {name!r}")
    for suffix in _SUFFIXES:
        shipped = _WEIGHTS / f"{name}{suffix}"
        if isinstance(name, str) and shipped.exists():
            return shipped
    if Path(name).suffix in _SUFFIXES and Path(name).is_file():  # a pipe would wait for ever
        return Path(name)
    raise ValueError(
        f"no model {os.fspath(name)!r}: choose one of {names()}, "
        "or the path of a .safetensors file written by zoo.save, or of a mixture's .json file"
    )


def _read(path: Path) -> tuple[dict, dict, dict[str, Tensor]]:
    """Constructor call, recipe and tensors of a file that is as :func:`save` wrote it."""
    words, tensors = read_tensors(path, "model", ("config", "recipe"))
    try:
        config, recipe = (json.loads(words[name]) for name in ("config", "recipe"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its config or recipe is no JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(recipe, dict):
        raise ValueError(f"{path}: its config and recipe must be JSON objects")
    return config, recipe, tensors


@checked
def recipe(name: str | os.PathLike) -> dict:
    """How the model was trained: data and range, loss, steps, seed, versions, duration.

    Of a mixture: ``parts``, the recipe of each.
    """
    path = _path(name)
    if path.suffix == ".json":
        return {"parts": {label: recipe(part) for label, part in _parts(path)[0].items()}}
    return _read(path)[1]


def _parts(path: Path) -> tuple[dict[str, Path], list[float] | None]:
    """The files of a mixture by their labels, and its weights."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict) or content.get("flowrob") != "mixture":
        raise ValueError(f"{path} was not written by zoo.save_mixture")
    parts, weights = content.get("parts"), content.get("weights")
    files = parts.values() if isinstance(parts, dict) else []
    if not files or not all(isinstance(f, str) and f.endswith(".safetensors") for f in files):
        raise ValueError(f"{path}: parts must name .safetensors files by label, got {parts!r}")
    if weights is not None and not (
        isinstance(weights, list) and all(isinstance(w, int | float) for w in weights)
    ):
        raise ValueError(f"{path}: weights must be a list of numbers or null, got {weights!r}")
    return {label: path.parent / part for label, part in parts.items()}, weights


def load(name: str | os.PathLike, device: torch.device | str | None = None) -> Flow | FlowMixture:
    """A trained flow, or a mixture of flows, in eval mode.

    Args:
        name: one of :func:`names`, or the path of a file written by :func:`save` or
            :func:`save_mixture`.
        device: where to put it; default :func:`flowrob.device`.

    Returns:
        The :class:`~flowrob.flows.Flow`, or of a mixture the
        :class:`~flowrob.flows.FlowMixture`; float32, in eval mode.

    Raises:
        ValueError: no such model or device, or a file that :func:`save` did not write, or that is
            damaged.
    """
    path, device = _path(name), _usable(device)
    if path.suffix == ".json":
        files, weights = _parts(path)
        parts = {label: load(part, device) for label, part in files.items()}
        try:
            whole = FlowMixture(parts, weights)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no mixture of its parts: {error}") from error
        return whole.to(next(whole.parameters()).device).eval()
    config, _, stored = _read(path)
    flow = _build(path, config, stored)
    tensors = {k: t.float() if t.is_floating_point() else t for k, t in stored.items()}
    _check_finite(path, tensors)
    flow.load_state_dict(tensors)
    flow.to(device)
    return flow.to(memory_format=torch.channels_last).eval()


def _usable(device: torch.device | str | None) -> torch.device:
    if device is None:
        return flowrob.device()
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"device={device!r} is not usable here: {error}") from error


def _build(path: Path, config: dict, stored: Mapping[str, Tensor]) -> Flow:
    """The flow that a file names, if the tensors beside the name are its own.

    Raises:
        ValueError: another architecture, arguments that do not fit it, or other tensors.
    """
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in _BUILDERS:
        raise ValueError(f"{path}: unknown architecture {kind!r}; update flowrob")
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k != "kind"}
    _check_size(path, kind, given, stored)
    try:
        flow = _BUILDERS[kind](**given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} does not say how to build a {kind}: {error}") from error
    shapes, found = ({k: (tuple(t.shape), t.is_floating_point()) for k, t in tensors.items()}
                     for tensors in (flow.state_dict(), stored))  # fmt: skip
    if other := sorted(k for k in shapes | found if shapes.get(k) != found.get(k)):
        raise ValueError(
            f"{path} does not hold the tensors of its {kind}: {', '.join(other[:3])} "
            f"({len(other)} in all) are missing, left over or of another shape or dtype"
        )
    return flow


def _check_size(path: Path, kind: str, given: Mapping, stored: Mapping[str, Tensor]) -> None:
    """Raise unless a flow of these arguments could be as small as the tensors that are stored.

    Every step, or block, has a tensor at least, and width^2 numbers, every mask of RealNVP one a
    pixel: nothing that is built is much larger than the file.
    """
    numbers = sum(tensor.numel() for tensor in stored.values())
    parts, width, defaults = 1, 1, {"num_levels": 1, "num_steps": 1, "num_blocks": 1, "width": 1}
    for name in defaults:
        value = given.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{path}: {name} must be a positive integer, got {value!r}")
        parts, width = (parts, value) if name == "width" else (parts * value, width)
    shape = given.get("image_shape", ())
    sizes = shape if isinstance(shape, tuple) else ()
    big = [n for n in sizes if isinstance(n, int) and n > 2**16]
    mask = math.prod(n for n in sizes[1:] if isinstance(n, int)) if kind == "realnvp" else 1
    channels = sizes[0] if sizes and isinstance(sizes[0], int) else 1
    last = max(width, channels * 2 ** (min(given.get("num_levels", 1), 64) - 1))
    least = max(parts * width**2, last * width, mask)
    if big or parts > len(stored) or least > max(numbers, 64):
        raise ValueError(
            f"{path}: {dict(given)} speaks of a flow greater than the {numbers:,} numbers in the "
            "file; it is damaged or was made by something else"
        )


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    bad = [k for k, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if bad:
        raise ValueError(
            f"{path}: {', '.join(bad[:3])} ({len(bad)} in all) hold NaN or infinity: the training "
            "went wrong, or the dtype is too narrow for the weights (try torch.float32)"
        )


@checked
def save(
    flow: Flow,
    path: str | os.PathLike,
    recipe: dict,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a flow built by :func:`flowrob.flows.glow` (or a sibling) as one safetensors file.

    Args:
        flow: its ``config`` and weights are stored.
        path: ends in ``.safetensors``.
        recipe: plain data that say how it was trained; give at least the data and the seed.
        dtype: of the stored weights; ``torch.float16`` halves the file, and moves what ships by
            less than 0.002 bits/dim (tested). They are loaded as float32 either way.

    Raises:
        ValueError: a flow without config or with weights that are not finite in this dtype, or a
            path with another suffix.
        OSError: it cannot be written, with its path.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path.name!r}")
    if getattr(flow, "config", None) is None:
        raise ValueError("this flow has no config; build it with flowrob.flows.glow or a sibling")
    words = {"config": json.dumps(flow.config), "recipe": json.dumps(recipe, sort_keys=True)}
    tensors = flow.state_dict()
    tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
    _check_finite(path, tensors)
    return write_tensors(path, "model", tensors, words)


@checked
def save_mixture(
    path: str | os.PathLike,
    parts: Mapping[str, str],
    weights: Sequence[float] | None = None,
) -> Path:
    """Write which models make up a mixture; :func:`load` then returns it as a whole.

    Args:
        path: ends in ``.json``.
        parts: by label, the names of .safetensors files in the same folder.
        weights: of the parts, summing to 1; default: alike.

    Raises:
        ValueError: another suffix, or a part that is not there.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise ValueError(f"path must end in .json, got {path.name!r}")
    missing = [name for name in parts.values() if not (path.parent / name).exists()]
    if missing or not parts:
        raise ValueError(f"the parts must lie beside {path.name}; missing: {missing or 'all'}")
    shares = None if weights is None else list(weights)
    write_json(path, {"flowrob": "mixture", "parts": dict(parts), "weights": shares})
    return path
