"""Ask the attack libraries for the perturbation that lowers a flow's likelihood most.

    pip install foolbox torchattacks adversarial-robustness-toolbox        those you want beside it
    python benchmarks/attack_libraries.py
    python benchmarks/attack_libraries.py --json results/attack_libraries.json

prints one Markdown table. A user has a flow with ``log_prob(x) -> (batch,)`` and wants, for every
image, the point of an l_inf ball where -log p is greatest. foolbox, torchattacks, ART and
AutoAttack are made for classifiers: they ask for logits and a label, and raise a cross-entropy. The
table tells what comes back if the density is handed over all the same, and what can be had with
glue. Each way through a library is one function here; ``lines`` counts its code.

All ways get the same images, ball, box and number of gradients, and are scored by one function:
bits/dim of the returned points, in float64. A library that is not installed gets a row that says
so.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import logging
import math
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flowrob import data, zoo
from flowrob.attacks import uniform_noise
from flowrob.attacks.objectives import in_double
from flowrob.evaluation import pipe_table
from flowrob.records import circumstances, command_line, installed, write_json
from flowrob.units import bits_per_dim, dequantize

PACKAGES = {
    "flowrob": "flowrob",
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "art": "adversarial-robustness-toolbox",
    "autoattack": "autoattack",
}
SHIFT = 1e6  # nats: far above the log-density of any image


# ---------------------------------------------------------------- what a classifier would look like


class Logits(nn.Module):
    def __init__(self, flow: nn.Module, shape: Callable[[Tensor], Tensor]):
        super().__init__()
        self.flow, self.shape = flow, shape

    def forward(self, x: Tensor) -> Tensor:
        return self.shape(self.flow.log_prob(x))


MODELS: dict[str, Callable[[nn.Module], Callable]] = {
    "`log_prob` as the model": lambda flow: flow.log_prob,
    "module, log p as (batch,)": lambda flow: Logits(flow, lambda lp: lp),
    "module, log p as (batch, 1)": lambda flow: Logits(flow, lambda lp: lp[:, None]),
    "two logits (log p, -log p)": lambda flow: Logits(flow, lambda lp: torch.stack((lp, -lp), 1)),
    "two logits, targeted": lambda flow: Logits(flow, lambda lp: torch.stack((lp, -lp), 1)),
    "two logits, shifted": lambda flow: Logits(
        flow, lambda lp: torch.stack((lp - SHIFT, SHIFT - lp), 1)
    ),
}
NAIVE = [name for name in MODELS if "two logits" not in name]


# --------------------------------------------------------------------- the libraries, as documented


def foolbox_pgd(model, x, radius, num_steps, targeted):
    import foolbox

    labels = torch.full((len(x),), int(targeted))
    criterion = foolbox.criteria.TargetedMisclassification if targeted else lambda y: y
    attack = foolbox.attacks.LinfPGD(
        rel_stepsize=2.5 / num_steps, steps=num_steps, random_start=False
    )
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return attack(wrapped, x, criterion(labels), epsilons=radius)[1]


def torchattacks_pgd(model, x, radius, num_steps, targeted):
    import torchattacks

    labels = torch.full((len(x),), int(targeted))
    step = 2.5 * radius / num_steps
    attack = torchattacks.PGD(model, eps=radius, alpha=step, steps=num_steps, random_start=False)
    if targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    return attack(x, labels)


def art_pgd(model, x, radius, num_steps, targeted):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    labels = np.full(len(x), int(targeted))
    loss, shape = nn.CrossEntropyLoss(), tuple(x.shape[1:])
    estimator = PyTorchClassifier(model, loss, shape, 2, clip_values=(0, 1), device_type="cpu")
    options = {"eps_step": 2.5 * radius / num_steps, "max_iter": num_steps, "targeted": targeted}
    attack = ProjectedGradientDescent(estimator, eps=radius, verbose=False, **options)
    return torch.from_numpy(attack.generate(x.numpy(), labels))


PLAIN = {"foolbox": foolbox_pgd, "torchattacks": torchattacks_pgd, "art": art_pgd}


# ---------------------------------------------------------------- the libraries, at what they allow


def foolbox_loss_hook(flow, x, radius, num_steps, rel_stepsize=None):
    import foolbox

    class LowerLikelihood(foolbox.attacks.LinfPGD):
        def get_loss_fn(self, model, labels):
            return lambda x: model(x).sum()

    model = foolbox.PyTorchModel(Logits(flow, lambda lp: -lp[:, None]).eval(), bounds=(0, 1))
    options = {"rel_stepsize": rel_stepsize or 2.5 / num_steps, "random_start": False}
    labels = torch.zeros(len(x), dtype=torch.long)
    return LowerLikelihood(steps=num_steps, **options)(model, x, labels, epsilons=radius)[1]


def foolbox_corners(flow, x, radius, num_steps):
    return foolbox_loss_hook(flow, x, radius, num_steps, rel_stepsize=2.0)


def foolbox_schedule(flow, x, radius, num_steps):
    import foolbox

    class LowerLikelihood(foolbox.attacks.LinfPGD):
        def get_loss_fn(self, model, labels):
            return lambda x: model(x).sum()

        def get_optimizer(self, x, stepsize):  # a cosine from 2 eps to 0, as flowrob's default
            angles = iter(torch.linspace(0, torch.pi, self.steps + 1).tolist())
            return lambda gradient: (1 + math.cos(next(angles))) * self.abs_stepsize * gradient

    model = foolbox.PyTorchModel(Logits(flow, lambda lp: -lp[:, None]).eval(), bounds=(0, 1))
    attack = LowerLikelihood(abs_stepsize=radius, steps=num_steps, random_start=False)
    labels = torch.zeros(len(x), dtype=torch.long)
    return attack(model, x, labels, epsilons=radius)[1]


def torchattacks_subclass(flow, x, radius, num_steps):
    import torchattacks

    class LowerLikelihood(torchattacks.PGD):
        def forward(self, images, labels=None):
            x = images
            for _ in range(self.steps):
                x = x.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(-self.model.log_prob(x).sum(), x)
                x = x.detach() + self.alpha * gradient.sign()
                x = images + (x - images).clamp(-self.eps, self.eps)
                x = x.clamp(0, 1)
            return x

    step = 2.5 * radius / num_steps
    return LowerLikelihood(flow, eps=radius, alpha=step, steps=num_steps)(x)


def torchattacks_apgd_called(flow, x, radius, num_steps):
    import torchattacks

    model = Logits(flow, lambda lp: torch.stack((lp - SHIFT, SHIFT - lp), 1)).eval()
    attack = torchattacks.APGD(model, eps=radius, steps=num_steps - 1)
    return attack(x, torch.zeros(len(x), dtype=torch.long))


def torchattacks_apgd(flow, x, radius, num_steps):
    import torchattacks

    model = Logits(flow, lambda lp: torch.stack((lp - SHIFT, SHIFT - lp), 1)).eval()
    attack = torchattacks.APGD(model, eps=radius, steps=num_steps - 1)  # one more at the start
    labels = torch.zeros(len(x), dtype=torch.long)
    return attack.perturb(x, labels, best_loss=True)[1]


def art_loss(flow, x, radius, num_steps):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    class Loss(nn.Module):
        def forward(self, logits, labels):
            return -logits[:, 0].sum()

    model = Logits(flow, lambda lp: torch.stack((lp, -lp), 1))
    shape = tuple(x.shape[1:])
    estimator = PyTorchClassifier(model, Loss(), shape, 2, clip_values=(0, 1), device_type="cpu")
    options = {"eps_step": 2.5 * radius / num_steps, "max_iter": num_steps, "verbose": False}
    attack = ProjectedGradientDescent(estimator, eps=radius, **options)
    return torch.from_numpy(attack.generate(x.numpy(), np.zeros(len(x), dtype=int)))


def art_auto_pgd(flow, x, radius, num_steps):
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    class Loss(nn.Module):
        reduction = "mean"

        def forward(self, logits, labels):
            nll = -logits[:, 0]
            return nll if self.reduction == "none" else nll.sum()

    with torch.no_grad():
        lowest = flow.log_prob(x).min() - 1  # so that every image starts "rightly classified"
    model = Logits(flow, lambda lp: torch.stack((lp - lowest, lowest - lp), 1))
    shape = tuple(x.shape[1:])
    estimator = PyTorchClassifier(model, Loss(), shape, 2, clip_values=(0, 1), device_type="cpu")
    options = {"max_iter": num_steps, "nb_random_init": 1, "verbose": False}
    attack = AutoProjectedGradientDescent(estimator, eps=radius, eps_step=2 * radius, **options)
    return torch.from_numpy(attack.generate(x.numpy(), np.zeros(len(x), dtype=int)))


def flowrob_default(flow, x, radius, num_steps):
    from flowrob.attacks import LinfBall, lower_likelihood

    attack = lower_likelihood(flow.log_prob, x, LinfBall(radius), num_steps=num_steps)
    print(*attack.warnings, sep="\n")
    return attack.x


def flowrob_auto(flow, x, radius, num_steps):
    from flowrob.attacks import LinfBall, lower_likelihood

    options = {"num_steps": num_steps, "schedule": "auto"}
    attack = lower_likelihood(flow.log_prob, x, LinfBall(radius), **options)
    print(*attack.warnings, sep="\n")
    return attack.x


def flowrob_constant(flow, x, radius, num_steps):
    from flowrob.attacks import LinfBall, lower_likelihood

    options = {"num_steps": num_steps, "schedule": "constant"}
    attack = lower_likelihood(flow.log_prob, x, LinfBall(radius), **options)
    print(*attack.warnings, sep="\n")
    return attack.x


def flowrob_cross_entropy(flow, x, radius, num_steps):
    from flowrob.attacks import LinfBall, pgd

    def objective(x):  # the cross-entropy of the two logits, on purpose
        lp = flow.log_prob(x)
        logits, labels = torch.stack((lp, -lp), 1), torch.zeros(len(x), dtype=torch.long)
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    attack = pgd(objective, x, LinfBall(radius), num_steps=num_steps)
    print(*attack.warnings, sep="\n")
    return attack.x


GLUED: dict[str, dict[str, Callable]] = {
    "flowrob": {
        "`lower_likelihood`": flowrob_default,
        '`schedule="auto"`': flowrob_auto,
        '`schedule="constant"`, step 2.5 eps/steps': flowrob_constant,
        "two logits (log p, -log p), on purpose": flowrob_cross_entropy,
    },
    "foolbox": {
        "`get_loss_fn` overridden": foolbox_loss_hook,
        "the same, step 2 eps": foolbox_corners,
        "`get_loss_fn` and `get_optimizer` overridden": foolbox_schedule,
    },
    "torchattacks": {
        "`PGD.forward` overridden": torchattacks_subclass,
        "two logits, shifted, `APGD`": torchattacks_apgd_called,
        "two logits, shifted, `APGD.perturb(best_loss=True)`": torchattacks_apgd,
    },
    "art": {
        "own loss": art_loss,
        "own loss, threshold logits, `AutoProjectedGradientDescent`": art_auto_pgd,
    },
}


# What the versions named in the results do, read in their source; the rows measure the same.
FACTS = {
    "flowrob": {
        "loss": "any function (batch,)",
        "ball": "each step",
        "box": "each step; argument, default [0, 1]",
        "best iterate": "per sample, over all restarts",
        "reports": "`Attack.warnings`: zero gradients, short reach, still rising, infinities",
    },
    "foolbox": {
        "loss": "cross-entropy; `get_loss_fn` may be overridden",
        "ball": "each step",
        "box": "each step; argument",
        "best iterate": "no: the last",
        "reports": "a mask of misclassified samples",
    },
    "torchattacks": {
        "loss": "written into each attack; `forward` may be overridden",
        "ball": "each step",
        "box": "each step; [0, 1] only",
        "best iterate": "PGD: no. APGD: the last that is misclassified (of greatest loss with "
        "`perturb(best_loss=True)`)",
        "reports": "nothing",
    },
    "art": {
        "loss": "an argument of `PyTorchClassifier`",
        "ball": "each step",
        "box": "each step if `clip_values` is given, else none",
        "best iterate": "PGD: no. AutoPGD finds it and returns the last",
        "reports": "a success rate and NaN gradients, to the log",
    },
    "autoattack": {
        "loss": "`ce` or `dlr`, by name",
        "ball": "each step",
        "box": "each step; [0, 1] only",
        "best iterate": "the last that is misclassified (of greatest loss with "
        "`APGDAttack.perturb(best_loss=True)`)",
        "reports": "robust accuracy; checks of the classifier",
    },
}

# ---------------------------------------------------------------------------------- the measurement


class Watched(nn.Module):
    """A flow that counts what an attack asks of it, and remembers the worst it has shown."""

    def __init__(self, flow: nn.Module, num: int):
        super().__init__()
        self.flow, self.gradients, self.live_gradients = flow, 0, 0
        self.worst = torch.full((num,), -torch.inf)

    def log_prob(self, x: Tensor) -> Tensor:
        value = self.flow.log_prob(x)
        if value.requires_grad:
            value.register_hook(self._count)
        if len(value) == len(self.worst):
            self.worst = torch.maximum(self.worst, -value.detach())
        return value

    def _count(self, gradient: Tensor) -> None:
        self.gradients += 1
        self.live_gradients += bool(gradient.any())


def lines(*sources: Callable) -> int:
    """Lines of code: without blank lines and, of a function, without its ``def``."""
    total = 0
    for source in sources:
        text = textwrap.dedent(inspect.getsource(source)).strip().splitlines()
        code = [line for line in text if line.strip() and not line.strip().startswith("#")]
        total += len(code) - (inspect.isfunction(source) and code[0].startswith("def "))
    return total


def attempt(attack: Callable[[nn.Module], Tensor], flow, x: Tensor, eps: int, score) -> dict:
    """Run one attack; everything it says is kept, nothing it raises is lost."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  ART draws its random starts from numpy's global generator
    flow.zero_grad(set_to_none=True)
    watched, said, records = Watched(flow, len(x)).eval(), io.StringIO(), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logging.getLogger().addHandler(handler)
    started = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(said):
            warnings.simplefilter("always")
            found = attack(watched).detach()
    except Exception as error:  # the libraries' own, of any type: it is what the table reports
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        logging.getLogger().removeHandler(handler)
    seconds = time.perf_counter() - started
    values = score(found)
    lost = bits_per_dim(-watched.worst.double(), x[0].numel()) - values
    return {
        "mean": values.mean().item(),
        "median": values.quantile(0.5).item(),
        "lost": lost.clamp(min=0).mean().item(),
        "moved": (found - x).abs().max().item() * 256,
        "outside_ball": max(0.0, (found - x).abs().max().item() * 256 - eps),
        "outside_box": max(0.0, found.max().item() - 1, -found.min().item()),
        "gradients": watched.gradients,
        "live_gradients": watched.live_gradients,
        "weights_grad": any(p.grad is not None for p in flow.parameters()),
        "said": [str(w.message) for w in caught]
        + [r.getMessage() for r in records]
        + [line for line in said.getvalue().splitlines() if line],
        "seconds": seconds,
    }


def ways(library: str) -> dict[str, tuple[Callable, int]]:
    """What is tried with a library: name -> (attack(flow, x, radius, num_steps), lines of code)."""
    found = {}
    if library in PLAIN:
        plain = PLAIN[library]
        for name, build in MODELS.items():

            def attack(flow, x, radius, steps, build=build, targeted="targeted" in name):
                model = build(flow)
                if isinstance(model, nn.Module):
                    model.eval()
                return plain(model, x, radius, steps, targeted)

            wrapped = [] if name.startswith("`log_prob`") else [Logits]
            found[name] = attack, lines(plain, *wrapped) + 1
    for name, attack in GLUED.get(library, {}).items():
        parts = [attack] if attack is not foolbox_corners else [foolbox_loss_hook]
        uses_logits = "Logits(" in inspect.getsource(parts[0])
        found[name] = attack, lines(*parts, *([Logits] if uses_logits else []))
    return found


def outcome(results: dict[str, dict]) -> str:
    """One phrase for what happened."""
    first = next(iter(results.values()))
    if "error" in first:
        return first["error"]
    said = "said nothing" if not first["said"] else f"said: {first['said'][0]}"
    if all(r["moved"] == 0 for r in results.values()):
        return f"returns the clean image, {said}"
    return "runs" if not first["said"] else f"runs, {said}"


def table(rows: list[dict], eps: list[int]) -> str:
    head = ["", "way", "lines", "what happens"] + [f"eps {e}: mean / median" for e in eps]
    head += ["gradients", "seconds"]
    lines = []
    for row in rows:
        results = row.get("results", {})
        cells = [row["library"], row["way"], str(row.get("lines", "")), row["outcome"]]
        cells += [
            f"{r['mean']:,.2f} / {r['median']:,.2f}" if "mean" in r else "-"
            for r in (results.get(str(e), {}) for e in eps)
        ]
        last = results.get(str(eps[-1]), {})
        cells += [str(last.get("gradients", "-"))]
        cells += [f"{last['seconds']:.1f}" if "seconds" in last else "-"]
        lines.append([cell.replace("|", "\\|").replace("\n", " ") for cell in cells])
    return pipe_table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="glow-photos-clean")
    parser.add_argument("--num", type=int, default=16, help="test photos")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eps", type=int, nargs="+", default=[4, 8], help="grey levels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    options = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(options.threads)
    flow = zoo.load(options.model, "cpu")
    images = data.load("photos", split="test")
    images = images[torch.linspace(0, len(images) - 1, options.num).long()]
    x = dequantize(images, torch.Generator().manual_seed(0))
    precise = in_double(flow)

    @torch.no_grad()
    def score(points: Tensor) -> Tensor:
        return bits_per_dim(precise.log_prob(points.double()), x[0].numel())

    def summary(values: Tensor) -> dict:
        return {"mean": values.mean().item(), "median": values.quantile(0.5).item()}

    generator = torch.Generator().manual_seed(1)
    clean = {str(e): summary(score(x)) for e in options.eps}
    noise = {str(e): summary(score(uniform_noise(x, e / 256, generator))) for e in options.eps}
    rows = [
        {"library": "none", "way": "clean images", "outcome": "", "results": clean},
        {"library": "none", "way": "uniform noise", "outcome": "", "results": noise},
    ]
    for library in PACKAGES:
        if find_spec(library) is None:
            rows.append({"library": library, "way": "", "outcome": "not installed"})
            continue
        for name, (attack, count) in ways(library).items():
            results = {
                str(e): attempt(
                    lambda flow, e=e, attack=attack: attack(flow, x, e / 256, options.steps),
                    flow,
                    x,
                    e,
                    score,
                )
                for e in options.eps
            }
            row = {"library": library, "way": name, "naive": name in NAIVE, "lines": count}
            rows.append({**row, "outcome": outcome(results), "results": results})
            print(f"{library}, {name}: {rows[-1]['outcome']}", flush=True)
    print(f"\nBits/dim of {options.num} test photos under {options.model}\n")
    print(table(rows, options.eps))
    command = command_line("python benchmarks/attack_libraries.py", sys.argv[1:])
    content = circumstances(started, command)
    content["versions"] |= {p: installed(p) or "not installed" for p in PACKAGES.values()}
    settings = {k: v for k, v in vars(options).items() if k != "json"}
    write_json(options.json, content | {"settings": settings, "rows": rows, "facts": FACTS})


if __name__ == "__main__":
    main()
