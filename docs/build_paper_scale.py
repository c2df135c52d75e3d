"""Writes docs/paper_scale.md from results/paper_cost.json: what the paper's Glow would cost.

    python docs/build_paper_scale.py

measures nothing: it shows what benchmarks/paper_cost.py counted, measured and assumed.
tests/test_paper_scale.py asserts that the file is up to date, so that no number in it is typed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))

from build_benchmarks import markdown, provenance  # noqa: E402  beside this file

HEAD = """# Training at the paper's size: what it costs

The published Glow for CIFAR-10 (Kingma and Dhariwal 2018) has L = 3 levels of K = 32 steps and
conditioners of width 512 (`flows.published("glow-cifar10")`). The paper's main text gives no sizes:
that it used these is our assumption, and "the paper's size" below means them. Where there is no GPU
it is not trained, but its price can be counted and measured. **Counted**: FLOPs (torch's counter,
forward and backward; a multiplication and an addition are two), memory, parameters. **Measured**:
CPU seconds on one core. **Assumed, not measured**: the length of a run, and everything about GPUs:
no GPU was measured for this page.

This file is written by `python docs/build_paper_scale.py` from `results/paper_cost.json`.
"""

MODELS = {
    "line": "seconds = a + FLOPs / rate",
    "traffic": "seconds = bytes kept / speed + FLOPs / rate",
}


def percent(error: float) -> str:
    return f"{100 * error:+.0f}%"


def hours(seconds: float) -> str:
    value = seconds / 3600
    return f"{value:,.0f} h" if value >= 10 else f"{value:.2g} h"


def size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def per_epoch(run: dict) -> int:
    """Optimiser steps in an epoch: whole batches only, as ``training.fit`` takes them."""
    return run["assumed"]["images"] // run["settings"]["batch"]


def short_answer(run: dict) -> str:
    batch, flops, spent = run["settings"]["batch"], run["runs"]["flops"], run["runs"]["cpu_seconds"]
    steps, epochs = per_epoch(run), run["assumed"]["epochs"]
    rows = [
        ["run", "TFLOP per step", "1000 steps", "one epoch", f"{epochs} epochs", "in FLOP"],
    ]
    for name in flops:
        times = [hours(n * spent[name]) for n in (1000, steps, epochs * steps)]
        work = f"{epochs * steps * flops[name]:.2e}"
        rows.append([name, f"{flops[name] / 1e12:.2f}", *times, work])
    calls, paper = run["attack_calls"], run["settings"]["paper"]
    days = {name: epochs * steps * value / 86400 for name, value in spent.items()}
    return (
        f"A step works on {batch} images. *hybrid* attacks half of them, *adversarial* all, by "
        f"{run['settings']['attack_steps']} steps of PGD: {calls['gradients']} gradients and "
        f"{calls['forwards']} more evaluation, counted. Times are for **one CPU core**, from the "
        f"seconds of the three jobs measured at the paper's size ({paper}, below); "
        f"an epoch is {steps} steps ({run['assumed']['images']:,} images), and {epochs} epochs are "
        f"an assumption.\n\n{markdown(rows, numbers=5)}\n\n"
        f"On this core the {epochs} epochs would take {days['clean']:,.0f} days clean, "
        f"{days['hybrid']:,.0f} hybrid and {days['adversarial']:,.0f} adversarial: the laptop's "
        f"tables use smaller models for a reason. An adversarial step costs "
        f"{spent['adversarial'] / spent['clean']:.1f} clean ones in seconds and "
        f"{flops['adversarial'] / flops['clean']:.1f} in FLOPs, a hybrid step "
        f"{spent['hybrid'] / spent['clean']:.1f} and {flops['hybrid'] / flops['clean']:.1f}."
    )


def on_gpus(run: dict) -> str:
    assumed, flops = run["assumed"], run["runs"]["flops"]
    low, high = assumed["utilisation"]
    steps = assumed["epochs"] * per_epoch(run)
    rows = [["GPU", "arithmetic", "peak", *flops]]
    for gpu, peaks in assumed["gpus"].items():
        for kind in ("fp32", "TF32", "bf16"):
            spans = [
                " to ".join(hours(steps * f / (peaks[kind] * u)) for u in (high, low))
                for f in flops.values()
            ]
            rows.append([gpu, kind, f"{peaks[kind] / 1e12:.4g} TFLOP/s", *spans])
    paper = run["sizes"][run["settings"]["paper"]]
    gpu, peaks = next(iter(assumed["gpus"].items()))
    moved = 1e3 * 2 * paper["step_bytes"]["training"] / peaks["bandwidth"]
    multiplied = {k: 1e3 * paper["flops_per_step"]["training"] / peaks[k] for k in ("TF32", "bf16")}
    share = 100 * multiplied["bf16"] / moved
    bound = f": more than {share:.0f}% of the bf16 peak is out of reach so" if share < 100 else ""
    return (
        f"GPU hours for {assumed['epochs']} epochs: FLOPs / (peak x utilisation). The peaks are "
        "those of NVIDIA's data sheets, without sparsity. **The utilisation is an assumption: "
        f"{100 * low:.0f}% to {100 * high:.0f}% of the peak, not measured.** Whether Glow trains "
        "as well in TF32 or bf16 was not tried either.\n\n"
        f"{markdown(rows, numbers=1 + len(flops))}\n\n"
        "A check of the upper end: to write and to read once what a training step keeps for its "
        f"backward pass, in float32, takes an {gpu} at least {moved:.1f} ms (data-sheet "
        f"bandwidth), while its multiplications take {multiplied['TF32']:.1f} ms at the TF32 peak "
        f"and {multiplied['bf16']:.1f} ms at that of bf16{bound}. What is not kept is moved, too."
    )


def sizes(run: dict) -> str:
    rows = [
        ["size", "parameters", "GFLOP per image", "kept per image", *run["models"]["line"]],
    ]
    for name, of in run["sizes"].items():
        work, kept = of["flops"]["training"][0] / 1e9, size(of["kept_bytes"]["training"][0])
        spent = [f"{seconds:.2f} s" for seconds in run["seconds"][name].values()]
        rows.append([name, f"{of['parameters']:,}", f"{work:.2f}", kept, *spent])
    settings = run["settings"]
    system = run["system_seconds"][settings["paper"]]
    extra = ", ".join(f"{seconds:.1f} s ({job})" for job, seconds in system.items())
    return (
        "FLOPs and bytes that autograd keeps are those of a training step. Seconds are CPU seconds "
        "that the process spends in its own code (a busy machine does not lengthen them much), on "
        f"one thread, for {settings['batch']} images, the least of "
        f"{settings['rounds']} rounds ({settings['paper_rounds']} at the paper's size): *forward* "
        "is `log_prob` alone, *attack* its gradient in x, *training* all gradients, clipping, "
        f"Adam and the moving average.\n\n{markdown(rows, numbers=6)}\n\n"
        "Neither these figures nor the hours above hold the system's own seconds, for handing out "
        f"memory. At the paper's size they were {extra} per job, and depend on what else the "
        "machine does."
    )


def span(errors: list[float]) -> str:
    return f"{percent(min(errors))} to {percent(max(errors))}"


def fits(run: dict) -> str:
    paper = run["settings"]["paper"]
    rows = [
        ["model", "job", "constants", "residuals", "left out", f"{paper}: predicted", "error"],
    ]
    errors: dict[str, list[float]] = {}
    for model, of in run["models"].items():
        for job, fit in of.items():
            first, slope = fit["constants"]
            first = f"a = {first:.3f} s" if model == "line" else f"speed {1e-9 / first:.1f} GB/s"
            error = fit["predicted"] / run["seconds"][paper][job] - 1
            errors.setdefault(model, []).append(error)
            rows.append(
                [
                    MODELS[model],
                    job,
                    f"{first}, rate {1e-9 / slope:.0f} GFLOP/s",
                    span(fit["residuals"]),
                    span(fit["held_out"]),
                    f"{fit['predicted']:.1f} s",
                    percent(error),
                ]
            )
    said = [
        f"*{MODELS[model]}* is off by up to "
        f"{100 * max(abs(e) for fit in of.values() for e in fit['held_out']):.0f}% where a size is "
        f"left out, and by up to {100 * max(map(abs, errors[model])):.0f}% at the paper's size"
        for model, of in run["models"].items()
    ]
    work = {name: of["flops"]["training"][0] for name, of in run["sizes"].items()}
    ratios = [work[paper] / of for name, of in work.items() if name != paper]
    return (
        "Two models of two constants each are fitted to the smaller sizes by least squares on the "
        "relative residuals. They can fail twice. *Left out*: each size predicted from the others. "
        f"And the paper's size, with {min(ratios):.0f} to {max(ratios):.0f} times the FLOPs of "
        "those that were fitted, was predicted and then measured. Errors are "
        "predicted / measured - 1."
        f"\n\n{markdown(rows, numbers=4)}\n\n"
        f"{'; '.join(said)}. FLOPs alone leave out what is no multiplication: bytes moved by the "
        "couplings' scales, the ReLUs and the squeezes. The hours above use the measured seconds, "
        "not these predictions."
    )


def memory(run: dict) -> str:
    paper, batch = run["sizes"][run["settings"]["paper"]], run["settings"]["batch"]
    parts, resident = paper["step_bytes"], paper["resident_bytes"]
    each = parts["weights"] / paper["parameters"]
    rows = [
        ["what", "bytes"],
        [f"{paper['parameters']:,} weights, gradients, Adam, average", size(parts["weights"])],
        [f"kept for the backward pass, training, {batch} images", size(parts["training"])],
        [f"kept for the backward pass, attack, {batch} images", size(parts["attack"])],
        ["training step in all, counted", size(parts["weights"] + parts["training"])],
        ["resident memory of the process, greatest, measured", size(resident["peak"])],
        ["its greatest before that model was built", size(resident["before"])],
    ]
    return (
        f"All in float32: {each:.0f} bytes per parameter (weight, gradient, Adam's two moments, "
        "moving average), and what autograd keeps. The attack needs no gradients of weights, but "
        f"keeps {100 * parts['attack'] / parts['training']:.0f}% as much: the ReLUs need their "
        f"results to go back, too.\n\n{markdown(rows, numbers=1)}"
    )


def render(results: Path = ROOT / "results") -> str:
    """The whole of docs/paper_scale.md."""
    path = results / "paper_cost.json"
    if not path.exists():
        command = "python benchmarks/paper_cost.py --json results/paper_cost.json"
        return f"{HEAD}\nNot measured yet: run `{command}`, then this generator.\n"
    run = json.loads(path.read_text(encoding="utf-8"))
    sections = {
        "Hours on one core": short_answer,
        "Hours on a GPU, by assumption": on_gpus,
        "Counted and measured": sizes,
        "The cost model, and whether it holds": fits,
        "Memory": memory,
    }
    parts = [f"## {title}\n\n{section(run)}\n" for title, section in sections.items()]
    return "\n".join([HEAD, *parts, provenance(run)]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("paper_scale.md").write_text(render(), encoding="utf-8")
