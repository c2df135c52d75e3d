"""Weights that ship with the package, each with the recipe that made it.

A model is one safetensors file (no pickle): the tensors, and in the metadata the constructor call
(``config``), how it was trained (``recipe``), and a digest of all three, which is checked whenever
the file is read: a damaged file never loads as another model. A mixture of models is a JSON file
that names the files of its parts, which lie beside it.

>>> flow = load("glow-photos-clean")
>>> flow.event_shape
(3, 32, 32)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import flowrob
from flowrob import flows
from flowrob.flows import Flow, FlowMixture
from flowrob.records import write_json, write_whole

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
    for suffix in _SUFFIXES:
        shipped = _WEIGHTS / f"{name}{suffix}"
        if isinstance(name, str) and shipped.exists():
            return shipped
    if Path(name).suffix in _SUFFIXES and Path(name).exists():
        return Path(name)
    raise ValueError(
        f"no model {os.fspath(name)!r}: choose one of {names()}, "
        "or the path of a .safetensors file written by zoo.save, or of a mixture's .json file"
    )


def _digest(tensors: Mapping[str, Tensor], config: str, recipe: str) -> str:
    """SHA-256 of everything in a file: names, dtypes, shapes, numbers, constructor call, recipe."""
    found = hashlib.sha256()
    for part in (config, recipe):
        found.update(hashlib.sha256(part.encode()).digest())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _read(path: Path) -> tuple[dict, dict, dict[str, Tensor]]:
    """Constructor call, recipe and tensors of a file that is as :func:`save` wrote it."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if metadata.get("flowrob") != "model":
        raise ValueError(f"{path} was not written by zoo.save; build the flow and load it yourself")
    config, recipe = metadata.get("config", ""), metadata.get("recipe", "")
    if metadata.get("digest") != _digest(tensors, config, recipe):
        raise ValueError(
            f"{path} is not what zoo.save wrote: its numbers or its recipe do not match their "
            "digest. It is damaged, or was changed by hand: take a fresh copy, or train it again"
        )
    return json.loads(config), json.loads(recipe), tensors


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
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict) or content.get("flowrob") != "mixture":
        raise ValueError(f"{path} was not written by zoo.save_mixture")
    files = {label: path.parent / part for label, part in content["parts"].items()}
    return files, content["weights"]


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
        ValueError: no such model, or a file that :func:`save` did not write, or that is damaged.
    """
    path = _path(name)
    if path.suffix == ".json":
        files, weights = _parts(path)
        whole = FlowMixture({label: load(part, device) for label, part in files.items()}, weights)
        return whole.to(next(whole.parameters()).device).eval()
    config, _, stored = _read(path)
    kind = config.pop("kind")
    if kind not in _BUILDERS:
        raise ValueError(f"{path}: unknown architecture {kind!r}; update flowrob")
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    flow = _BUILDERS[kind](**config)
    tensors = {k: t.float() if t.is_floating_point() else t for k, t in stored.items()}
    flow.load_state_dict(tensors)
    flow.to(flowrob.device() if device is None else device)
    return flow.to(memory_format=torch.channels_last).eval()


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
        ValueError: a flow without config, or a path with another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path.name!r}")
    if getattr(flow, "config", None) is None:
        raise ValueError("this flow has no config; build it with flowrob.flows.glow or a sibling")
    told = {"config": json.dumps(flow.config), "recipe": json.dumps(recipe, sort_keys=True)}
    tensors = {key: value.contiguous() for key, value in flow.state_dict().items()}
    tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
    metadata = {"flowrob": "model", **told, "digest": _digest(tensors, **told)}
    return write_whole(path, lambda partial: save_file(tensors, partial, metadata))


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
