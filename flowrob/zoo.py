"""Weights that ship with the package, each with the recipe that made it.

A model is one safetensors file (no pickle): the tensors, and in the metadata the constructor call
(``config``) and how it was trained (``recipe``).

>>> flow = load("glow-photos-clean")
>>> flow.event_shape
(3, 32, 32)
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import flowrob
from flowrob import flows
from flowrob.flows import Flow
from flowrob.records import write_whole

_WEIGHTS = Path(__file__).parent / "weights"
_BUILDERS = {"glow": flows.glow, "realnvp": flows.realnvp, "plane_flow": flows.plane_flow}


def names() -> list[str]:
    """The models that ship with the package.

    >>> "glow-photos-clean" in names()
    True
    """
    return sorted(path.stem for path in _WEIGHTS.glob("*.safetensors"))


def _path(name: str | os.PathLike) -> Path:
    shipped = _WEIGHTS / f"{name}.safetensors"
    if isinstance(name, str) and shipped.exists():
        return shipped
    if Path(name).suffix == ".safetensors" and Path(name).exists():
        return Path(name)
    raise ValueError(
        f"no model {os.fspath(name)!r}: choose one of {names()}, "
        "or the path of a .safetensors file written by zoo.save"
    )


def _metadata(path: Path) -> dict:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if metadata.get("flowrob") != "model":
        raise ValueError(f"{path} was not written by zoo.save; build the flow and load it yourself")
    return {key: json.loads(metadata[key]) for key in ("config", "recipe")}


def recipe(name: str | os.PathLike) -> dict:
    """How the model was trained: data and range, loss, steps, seed, versions, duration."""
    return _metadata(_path(name))["recipe"]


def load(name: str | os.PathLike, device: torch.device | str | None = None) -> Flow:
    """A trained flow in eval mode.

    Args:
        name: one of :func:`names`, or the path of a file written by :func:`save`.
        device: where to put it; default :func:`flowrob.device`.

    Returns:
        The :class:`~flowrob.flows.Flow`, float32, in eval mode.

    Raises:
        ValueError: no such model, or a file that :func:`save` did not write.
    """
    path = _path(name)
    config = dict(_metadata(path)["config"])
    kind = config.pop("kind")
    if kind not in _BUILDERS:
        raise ValueError(f"{path}: unknown architecture {kind!r}; update flowrob")
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    flow = _BUILDERS[kind](**config)
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    flow.load_state_dict(tensors)
    flow.to(flowrob.device() if device is None else device)
    return flow.to(memory_format=torch.channels_last).eval()


def save(flow: Flow, path: str | os.PathLike, recipe: dict) -> Path:
    """Write a flow built by :func:`flowrob.flows.glow` (or a sibling) as one safetensors file.

    Args:
        flow: its ``config`` and weights are stored.
        path: ends in ``.safetensors``.
        recipe: plain data that say how it was trained; give at least the data and the seed.

    Raises:
        ValueError: a flow without config, or a path with another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path.name!r}")
    if getattr(flow, "config", None) is None:
        raise ValueError("this flow has no config; build it with flowrob.flows.glow or a sibling")
    metadata = {
        "flowrob": "model",
        "config": json.dumps(flow.config),
        "recipe": json.dumps(recipe, sort_keys=True),
    }
    tensors = {key: value.contiguous() for key, value in flow.state_dict().items()}
    return write_whole(path, lambda partial: save_file(tensors, partial, metadata))
