"""Commands of a few seconds, and what they should come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flowrob import zoo
from flowrob.cli.recipes import RECIPES
from flowrob.training import Validation, fit

SHORT = ["--set", "num_steps=4", "--set", "batch_size=16", "--set", "attack_steps=1", "--quiet"]


def tiny(recipe: str, folder: Path, *more: str) -> list[str]:
    """A short training run of a recipe, its files in a folder."""
    files = ["--output", str(folder / "w.safetensors"), "--json", str(folder / "r.json")]
    run = ["--checkpoint", str(folder / "run.safetensors"), "--train", "0:64", "--report", "0:6"]
    return ["train", "--preset", recipe, *files, *run, *SHORT, *more]


def table(folder: Path, *more: str) -> list[str]:
    """A short table, its files in a folder."""
    return ["table", "tiny", "--folder", str(folder), "--limit", "4", *SHORT, *more]


def state(path: Path) -> dict[str, Tensor]:
    """The weights in a file."""
    return zoo.load(path, "cpu").state_dict()


def by_hand(
    name: str, images: Tensor, validation: Validation | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """The weights of such a run: its base, then what goes on from it, both by fit()."""
    flow = RECIPES[name].build(torch.Generator().manual_seed(seed))
    for recipe in (RECIPES[RECIPES[name].start], RECIPES[name]):
        loss = replace(recipe.loss, attack_steps=1) if recipe.loss.share else "clean"
        fit(
            flow,
            images,
            loss,
            num_steps=4,
            batch_size=16,
            update=recipe.update,
            validation=validation,
            seed=seed,
            progress=False,
        )
    return flow.state_dict()
