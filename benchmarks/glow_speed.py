"""Time Glow against the convolutions it is made of, and against normflows' Glow.

    python benchmarks/glow_speed.py                    one Markdown table
    python benchmarks/glow_speed.py --threads 1 --json results/glow_speed.json

Three jobs, each as milliseconds and as a ratio to the same job on the model's own convolutions,
run back to back in channels-last layout with the intermediate tensors left out:

    forward    log_prob under no_grad
    attack     log_prob and its gradient in x, weights frozen
    training   log_prob and its gradients in all weights

The implementations take turns, and each figure is the minimum over the rounds: on a shared machine
the minimum is what the code costs, the rest is what the neighbours cost.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from flowrob.evaluation import pipe_table
from flowrob.flows import ZeroConv2d, glow
from flowrob.records import circumstances, command_line, write_json


def convolutions(flow: nn.Module, x: Tensor) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Every convolution of a flow with the shape of its input, 1x1 maps of channels included."""
    found: list = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _) -> None:
        found.append((module, tuple(inputs[0].shape)))

    hooks = [m.register_forward_hook(note) for m in flow.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        flow.log_prob(x)
    for hook in hooks:
        hook.remove()
    pixelwise = []
    for module, shape in found:
        if not isinstance(module, ZeroConv2d) and module.kernel_size == (3, 3):
            channels = 2 * shape[1]  # the 1x1 map before every coupling works on all channels
            square = nn.Conv2d(channels, channels, 1).to(memory_format=torch.channels_last)
            pixelwise.append((square, (shape[0], channels, *shape[2:])))
    return found + pixelwise


class BackToBack(nn.Module):
    """The convolutions alone: each on an input of its own, nothing in between."""

    def __init__(self, parts: list[tuple[nn.Module, tuple[int, ...]]]):
        super().__init__()
        self.parts = nn.ModuleList(module for module, _ in parts)
        self.inputs = [
            torch.randn(shape).to(memory_format=torch.channels_last) for _, shape in parts
        ]
        self.gradients = [
            torch.ones_like(m(y)) for m, y in zip(self.parts, self.inputs, strict=True)
        ]

    def run(self, job: str) -> None:
        for module, y, gradient in zip(self.parts, self.inputs, self.gradients, strict=True):
            if job == "forward":
                with torch.no_grad():
                    module(y)
                continue
            y = y.detach().requires_grad_()
            wanted = [y] if job == "attack" else [y, *module.parameters()]
            torch.autograd.grad(module(y), wanted, gradient)


def jobs(log_prob: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor) -> dict[str, Callable]:
    """The three jobs on a model, as functions without arguments."""

    def forward() -> None:
        with torch.no_grad():
            log_prob(x)

    def attack() -> None:
        y = x.clone().requires_grad_()
        torch.autograd.grad(log_prob(y).sum(), y)

    def training() -> None:
        model.zero_grad(set_to_none=True)
        log_prob(x).mean().backward()

    def frozen(job: Callable) -> Callable:
        def run() -> None:
            model.requires_grad_(False)
            job()
            model.requires_grad_(True)

        return run

    return {"forward": forward, "attack": frozen(attack), "training": training}


def normflows_glow(levels: int, steps: int, width: int) -> nn.Module:
    """Glow as normflows' own example builds it, with its log_prob."""
    import normflows as nf

    flows, merges, bases = [], [], []
    for i in range(levels):
        channels = 3 * 2 ** (levels + 1 - i)
        flows.append(
            [
                nf.flows.GlowBlock(channels, width, split_mode="channel", scale=True)
                for _ in range(steps)
            ]
            + [nf.flows.Squeeze()]
        )
        if i > 0:
            merges.append(nf.flows.Merge())
            latent = (3 * 2 ** (levels - i), 32 // 2 ** (levels - i), 32 // 2 ** (levels - i))
        else:
            latent = (3 * 2 ** (levels + 1), 32 // 2**levels, 32 // 2**levels)
        bases.append(nf.distributions.DiagGaussian(latent))
    return nf.MultiscaleFlow(bases, flows, merges)


def measure(rows: dict[str, dict[str, Callable]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds per job, minimum over the rounds, the implementations taking turns."""
    best = {name: {job: float("inf") for job in of} for name, of in rows.items()}
    for _ in range(rounds + 1):  # one more, for warming up: a minimum does not mind
        for name, of in rows.items():
            for job, run in of.items():
                started = time.perf_counter()
                run()
                best[name][job] = min(best[name][job], 1e3 * (time.perf_counter() - started))
    return best


def table(milliseconds: dict[str, dict[str, float]]) -> str:
    """Every job of every implementation, and its ratio to the first implementation's."""
    base = next(iter(milliseconds.values()))
    lines = [
        [name, *(f"{of[job]:.0f} ms ({of[job] / base[job]:.2f}x)" for job in base)]
        for name, of in milliseconds.items()
    ]
    return pipe_table(["", "forward", "attack step", "training step"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x = torch.rand(options.batch, 3, 32, 32)
    flow = glow(num_levels=3, num_steps=8, width=64)
    flow.initialize(x)
    flow.to(memory_format=torch.channels_last)
    alone = BackToBack(convolutions(flow, x))
    rows = {
        "its convolutions alone": {
            job: (lambda job=job: alone.run(job)) for job in ("forward", "attack", "training")
        },
        "flowrob": jobs(flow.log_prob, flow, x),
    }
    if find_spec("normflows"):
        other = normflows_glow(3, 8, 64)
        other.log_prob(x, None)  # its ActNorm takes the first batch
        rows["normflows"] = jobs(lambda y: other.log_prob(y, None), other, x)
    best = measure(rows, options.rounds)
    print(
        f"Glow, L = 3, K = 8, width 64, batch {options.batch}, {options.threads} threads, "
        f"torch {torch.__version__}, {platform.machine()}; minimum of {options.rounds} rounds\n"
    )
    print(table(best))
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    command = command_line("python benchmarks/glow_speed.py", sys.argv[1:])
    content = circumstances(started, command, ("normflows",))
    write_json(options.json, content | {"settings": settings, "milliseconds": best})


if __name__ == "__main__":
    main()
