"""flowrob: the adversarial robustness of likelihoods, from the linear flow to Glow.

The package follows the table of contents of "Adversarial Robustness of Flow-Based Generative
Models" (Pope, Balaji, Feizi, AISTATS 2020); the section is in brackets.

==============  ==================================================================================
``gaussian``    the linear flow: density, exact worst-case, best-case, universal perturbation
                (3, 3.1, 3.3); ``linf``: the same question for the l_inf ball
``tradeoff``    adversarial training of the linear flow: growth, Theorem 3.2, frontier (3.2);
                ``sphere``: its closed forms where the truth is spherical
``bijections``  ActNorm, InvertibleConv1x1, AffineCoupling, ...: x <-> z with log-det (2.1);
                ``networks``: the conditioners inside the couplings
``flows``       ``Flow``, ``glow()``, ``realnvp()``: the models as visible lists of bijections
                (2.1, 5)
``attacks``     lower and raise a likelihood, universal and linear attacks (2.2, 4); made of
                ``ascent`` (projected gradient ascent), ``balls`` (l_inf, l_2), ``objectives``,
                ``blackbox`` (Square, without gradients), ``pixels`` (attacks on 8-bit images)
``training``    ``fit()``: one loop for clean, adversarial and hybrid training (4); ``adversary``
                attacks its batches, ``checkpoints`` keeps its state, ``distributed`` spreads it,
                ``muon`` is an optimizer
``evaluation``  bits/dim, tables of robustness and detection, anatomy of an attack (5); its rows
                are shown by ``tables``; ``ensemble``: the strongest attack, worst of many
``presets``     what the command line knows by name: ``python -m flowrob train``, ``attack``,
                ``table``, ``models``; ``reproduce`` makes a table from nothing, ``runs`` the
                records
``data``        images in, dequantised tensors out
``zoo``         weights that ship with the package, each with its recipe
``paper``       the numbers the paper prints, with their source
``plots``       takes arrays and an ``ax``, returns the ``ax``
``widgets``     sliders for the notebooks, drawn with ``plots``
==============  ==================================================================================

Units: images are uint8, ``x = (u8 + u) / 256`` lies in [0, 1); the paper's epsilon counts grey
levels, so ``radius = eps / 256``. Densities are per unit of x, in nats.
"""

from __future__ import annotations

import importlib
import os

__version__ = "0.1.0"

_MODULES = (
    "adversary",
    "ascent",
    "attacks",
    "balls",
    "bijections",
    "blackbox",
    "checkpoints",
    "data",
    "distributed",
    "ensemble",
    "evaluation",
    "flows",
    "gaussian",
    "linf",
    "muon",
    "networks",
    "objectives",
    "paper",
    "pixels",
    "plots",
    "presets",
    "reproduce",
    "runs",
    "sphere",
    "tables",
    "tradeoff",
    "training",
    "widgets",
    "zoo",
)

__all__ = [*_MODULES, "device"]


def device():
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


def __getattr__(name: str):
    """Import submodules on first use, so that ``import flowrob`` alone is enough and cheap."""
    if name in _MODULES:
        return importlib.import_module(f"flowrob.{name}")
    raise AttributeError(f"module 'flowrob' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
