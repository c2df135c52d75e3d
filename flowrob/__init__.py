"""flowrob: the adversarial robustness of likelihoods, from the linear flow to Glow.

The package follows the table of contents of "Adversarial Robustness of Flow-Based Generative
Models" (Pope, Balaji, Feizi, AISTATS 2020); on the right the section. A chapter's face hands on its
public names, ``from flowrob.linear import GaussianFlow``; inside, a file is a subject.

::

    linear/      gaussian (density; worst, best, universal perturbations)   linf (the l_inf ball)
                 adversarial_training   frontier (Pareto)   sphere (closed forms)           3
    flows/       models (Flow, glow, realnvp)   bijections   couplings   conditioners
                 mixtures   round_trip (is it invertible?)   foreign (other libraries)      2.1
    attacks/     likelihood (the named attacks)   images (8-bit)   gradient (pgd)   auto_pgd
                 random_search (Square)   balls   objectives   starts   outcome             2.2, 4
    training/    loop (fit)   losses (clean, adversarial, hybrid: whom a step attacks)
                 visits (how long an attack lasts)   batches   update   muon
                 validation   guard   checkpoints                                           4
    evaluation/  bits   robustness   convergence   strongest   detection
                 scores   certificates (median smoothing)
                 defences (mixture, ladder, other bases)   layers (anatomy)   table         5
    cli/         commands   recipes   runs   side_by_side   paper_tables  flowrob, python -m flowrob
    _checks      arguments are held against annotations
    units        grey levels and x, nats and bits/dim       data     images in
    zoo          weights that ship, with their recipes      paper    the numbers that it prints
    plots        arrays and an ax in, the ax out            widgets  sliders over plots
    lessons      what a notebook asks and promises: predictions, checks, exercises
    records      what long runs leave in JSON               distributed  several processes as one

Units: images are uint8, ``x = (u8 + u) / 256`` lies in [0, 1); the paper's epsilon counts grey
levels, so ``radius = eps / 256``. Densities are per unit of x, in nats.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__version__ = "0.1.0"

_MODULES = (
    "attacks",
    "cli",
    "data",
    "distributed",
    "evaluation",
    "flows",
    "lessons",
    "linear",
    "paper",
    "plots",
    "records",
    "training",
    "units",
    "widgets",
    "zoo",
)

__all__ = [*_MODULES, "device", "scale"]


def device() -> torch.device:
    """The device to work on: CUDA where there is one, else the CPU.

    The environment variable ``FLOWROB_DEVICE`` (``cpu``, ``cuda``, ``cuda:1``, ...) overrides the
    choice.

    Returns:
        A ``torch.device``.

    Raises:
        ValueError: ``FLOWROB_DEVICE`` is not a device this PyTorch knows or has.
    """
    import torch

    name = os.environ.get("FLOWROB_DEVICE")
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"FLOWROB_DEVICE={name!r} is not usable here ({error}); unset it or use 'cpu'"
        ) from error
    return torch.device(name)


def scale(device: torch.device | str) -> dict[str, Any]:
    """How much the deep notebooks do on this device; and say so.

    >>> scale("cpu")["crops"]
    On a CPU: 32 photographs, 20 steps an attack, training at 16x16.
    On a GPU: 1,000 images, 200 steps an attack, training at 32x32.
    32

    Returns:
        ``crops`` to attack (at most: the photographs have fewer), ``steps`` of an attack, the
        ``pixels`` of a side of what is trained, and the ``images`` to attack: "photos"; on a GPU
        "cifar10", with the Glow trained on it, where that set is on this machine already.
    """
    laptop = {"crops": 32, "steps": 20, "pixels": 16, "images": "photos"}
    gpu = {"crops": 1000, "steps": 200, "pixels": 32, "images": "photos"}
    told = "{crops:,} {}, {steps} steps an attack, training at {pixels}x{pixels}".format
    if str(device).startswith("cpu"):
        print(f"On a CPU: {told('photographs', **laptop)}. On a GPU: {told('images', **gpu)}.")
        return laptop
    try:
        importlib.import_module("flowrob.data").load("cifar10", limit=1)
        gpu["images"], images = "cifar10", "images of CIFAR-10"
    except (FileNotFoundError, ModuleNotFoundError):
        images = "photographs (CIFAR-10 is not on this machine)"
    print(f"On a GPU: up to {told(images, **gpu)}. The text was written on a CPU, of ", end="")
    print(f"{told('photographs', **laptop)}: other numbers appear.")
    return gpu


def __getattr__(name: str):
    """Import a chapter or a shelf on first use: ``import flowrob`` is enough, and cheap."""
    if name in _MODULES:
        return importlib.import_module(f"flowrob.{name}")
    raise AttributeError(f"module 'flowrob' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
