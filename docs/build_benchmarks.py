"""Writes docs/benchmarks.md from results/*.json: speed, other libraries, training, long attacks.

    python docs/build_benchmarks.py

measures nothing: each section shows what one script in benchmarks/ wrote under results/, with its
command, date, versions and machine, or says which command to run where that file is missing.
tests/test_docs.py asserts that the file is up to date, so that no number in it is typed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import fast_attacks  # noqa: E402  scripts beside this folder, found by the line above
import glow_speed  # noqa: E402
import worst_case  # noqa: E402
from benchmark_attacks import (  # noqa: E402
    markdown,
    section_certified,
    section_long_attacks,
    section_price,
    section_smaller_balls,
)

HEAD = """# Benchmarks

Questions, each answered by one script in `benchmarks/`. This file is written by
`python docs/build_benchmarks.py` from what those scripts left in `results/`: no number in it is
typed by hand, and `python -m pytest tests/test_docs.py` asserts that it is up to date.

Records dated before 2026-11-24 have other test crops of photographs: squares of the photographs
that were trained on, not whole photographs held out. `glow-photos-adam` no longer ships.
"""

WORST_CASE = """
Theorem 3.1 turned into code, against what no method avoids and two routes through scipy. Seconds,
the least of some repeats; everything starts from the covariance and ends with delta.

* *floor*: one eigendecomposition and two matrix products;
* *ours*: `GaussianFlow(mean, covariance)`, then `worst_case`;
* *find_root*: the same with `scipy.optimize.elementwise.find_root` on the secular equation;
* *trust region*: scipy's exact solver of the trust-region subproblem, one point at a time, timed
  on the points in brackets and multiplied up.

*Its drop* is the loss of log-likelihood that a route reaches, relative to ours (least and greatest
over the points): 0 is the same optimum, a negative number is short of it.
"""

GLOW = """
Glow with L = 3, K = 8, width 64 on 32x32 images. In brackets the ratio to the same job on the
model's own convolutions, run back to back with nothing in between: the price of everything else.
An attack step is `log_prob` and its gradient in x with the weights frozen; a training step has the
gradients in all weights. Minimum over the rounds, the implementations taking turns.
"""

LIBRARIES = """
A user has a flow with `log_prob(x) -> (batch,)` and wants, for every image, the point of an l_inf
ball where -log p is greatest. What does each attack library need, and what does it return?

In fairness: these libraries are made for classifiers, and good at that. They ask for logits and a
label, and raise a cross-entropy; densities are outside of what their documentation promises. The
question here is what happens to somebody who tries.
"""

READ_NAIVE = """
A density of x in [0, 1] is no probability: log p of a photograph is thousands of nats *above* 0.
The softmax of (log p, -log p) is then exactly (1, 0) in floating point, its cross-entropy exactly 0
and so is every gradient. One column of logits has a softmax of 1 whatever the model says. *Shifted*
logits (below) cure the gradient, but count every image as misclassified from the start, which APGD
takes for a success that needs no attack.
"""

FAST_ATTACKS = """
In adversarial training most of the time goes into the attacks. Four ways of `training.Loss` to
spend less: fewer steps (`attack_steps`), fewer at first (`attack_warmup_steps`), a start from where
the last attack on the same image ended (`memory=PerImage()`), and the networks in low precision
(`attack_dtype="bfloat16"`). What does each one save, and what is left of the robustness?
"""


def section_worst_case(run: dict) -> str:
    return f"{WORST_CASE}\n{worst_case.table(run['results'])}\n"


def section_glow(run: dict) -> str:
    settings = run["settings"]
    threads = f"{settings['threads']} thread" + "s" * (settings["threads"] != 1)
    note = f"Batch {settings['batch']}, {threads}, {settings['rounds']} rounds."
    return f"{GLOW}\n{note}\n\n{glow_speed.table(run['milliseconds'])}\n"


def section_libraries(run: dict) -> str:
    """What other attack libraries do with a density: three tables and what they show."""
    settings, eps = run["settings"], [str(e) for e in run["settings"]["eps"]]
    tried = [row for row in run["rows"] if "results" in row and "lines" in row]
    ran = [row for row in tried if "mean" in row["results"][eps[0]]]
    unmoved = [row for row in ran if all(row["results"][e]["moved"] == 0 for e in eps)]
    references = [row for row in run["rows"] if row["library"] == "none"]
    missing = [row["library"] for row in run["rows"] if row["outcome"] == "not installed"]
    moved = [row for row in ran if not row["naive"] and row not in unmoved]
    every = [row["results"][e] for row in ran for e in eps]
    gradients = sorted({r["gradients"] for r in every} - {0})
    parts = [
        LIBRARIES,
        f"Set-up: {settings['num']} test photos under `{settings['model']}`, {settings['steps']} "
        f"steps ({' to '.join(map(str, gradients))} gradients counted inside the model), the same "
        "images, ball and box for all, steps of 2.5 eps / steps from the clean image unless said "
        "otherwise; the returned points are scored by one function, in float64.",
        "### Handed over as a model",
        handed_over([row for row in tried if row["naive"] or row in unmoved]),
        READ_NAIVE.strip(),
        "### With glue",
        "Bits/dim reached, mean / median; higher is a better attack. *Lines* counts the code of "
        "that way, imports and the `Logits` module included. *Best iterate lost*: "
        f"the mean bits/dim between the worst point that the attack saw at eps {eps[-1]} and the "
        "one that it returned.",
        reached(references, moved, eps),
        on_logits([row for row in ran if "targeted" in row["way"]][:1], eps[-1]),
        comparison(ran, eps),
        "### What each one enforces, keeps and says",
        enforced(run["facts"], ran),
        what_was_said(every, [r for row in ran if row["library"] != "flowrob"
                              for r in (row["results"][e] for e in eps)]),
    ]  # fmt: skip
    if missing:
        names = ", ".join(missing)
        parts.append(
            f"Not installed in this run: {names}. (AutoAttack is not on PyPI: its documentation "
            "installs it from its repository. torchattacks has its APGD.)"
        )
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def handed_over(rows: list[dict]) -> str:
    """What happens to a density that is passed as if it were a classifier."""
    head = ["library", "what it is given", "what happens"]
    return markdown([head, *([row["library"], row["way"], row["outcome"]] for row in rows)])


def reached(references: list[dict], moved: list[dict], eps: list[str]) -> str:
    """Bits/dim that each way reaches, those without an attack first."""
    lines = [["library", "way", "lines", *(f"eps {e}" for e in eps), "best iterate lost"]]
    for row in references + moved:
        scores = [row["results"][e] for e in eps]
        cells = [f"{r['mean']:,.2f} / {r['median']:,.2f}" for r in scores]
        lost = f"{scores[-1]['lost']:.2f}" if "lost" in scores[-1] else ""
        library = "" if row in references else row["library"]
        lines.append([library, row["way"], str(row.get("lines", "")), *cells, lost])
    return markdown(lines, numbers=len(eps) + 1)


def on_logits(targeted: list[dict], last: str) -> str:
    """How a density is dressed up as two logits, and what that does to its gradient."""
    live = "".join(
        f"; {row['library']} had a gradient in {row['results'][last]['live_gradients']} of "
        f"{row['results'][last]['gradients']} steps at eps {last}"
        for row in targeted
    )
    return (
        "*Shifted*: (log p - c, c - log p) with c above every log p, so that the cross-entropy is "
        "2 (c - log p), linear. *Targeted*: the second logit as a target, whose cross-entropy "
        f"saturates as soon as log p is below 0, at 8 bits/dim{live}."
    )


def enforced(facts: dict, ran: list[dict]) -> str:
    """What each library promises, and whether it touches the weights' gradients."""
    titles = ["loss", "ball", "box", "best iterate", "reports"]
    lines = [["", *titles, "fills the weights' `.grad`"]]
    for library, fact in facts.items():
        mine = [r for row in ran if row["library"] == library for r in row["results"].values()]
        touched = "yes" if any(r["weights_grad"] for r in mine) else "no"
        lines.append([library, *(fact[t] for t in titles), touched if mine else "not measured"])
    return markdown(lines)


def what_was_said(every: list[dict], theirs: list[dict]) -> str:
    """Balls and boxes kept, gradients that were zero, and who mentioned it."""
    outside = max(max(r["outside_ball"] / 256, r["outside_box"]) for r in every)
    dead = [r for r in theirs if r["live_gradients"] == 0]
    spoke = sum(bool(r["said"]) for r in theirs)
    return (
        "The last column is measured, the others are read in the source of the versions below "
        f"(autoattack: in its repository). No run left the ball or the box by more than "
        f"{outside:.1g}. Of the {len(theirs)} runs in which another library returned images, "
        f"{len(dead)} had a zero gradient at every step or made none, and {spoke} of all said "
        "anything, by warning, log or print."
    )


def comparison(ran: list[dict], eps: list[str]) -> str:
    """The best way of each other library, as a share of flowrob's default."""
    ours = next(row["results"] for row in ran if row["way"] == "`lower_likelihood`")
    best: dict[str, list[str]] = {}
    for library in dict.fromkeys(r["library"] for r in ran if r["library"] != "flowrob"):
        for e in eps:
            mean = max(r["results"][e]["mean"] for r in ran if r["library"] == library)
            best.setdefault(library, []).append(f"{100 * mean / ours[e]['mean']:.1f}%")
    shares = "; ".join(f"{library} {' and '.join(of)}" for library, of in best.items())
    same = [r["results"][eps[-1]]["mean"] for r in ran if r["way"] in PLAIN_PGD]
    return (
        "The best way through each library, as a share of the mean bits/dim of "
        f"`lower_likelihood` at eps {' and '.join(eps)}: {shares}. Plain PGD with the same steps "
        f"is the same attack everywhere: {len(same)} ways to it, flowrob's among them, end between "
        f"{min(same):,.2f} and {max(same):,.2f} at eps {eps[-1]}. What makes a difference is the "
        "schedule of the steps, which flowrob has by default, APGD has, and foolbox lets one add."
    )


PLAIN_PGD = (
    '`schedule="constant"`, step 2.5 eps/steps',
    "two logits, shifted",
    "`get_loss_fn` overridden",
    "`PGD.forward` overridden",
    "own loss",
)


def verdict(of: dict[str, list[dict]], reference: str) -> str:
    """Which ways to attack in training end within the seeds' noise of the reference, at eps 8."""
    scores = {name: [one["8"]["mean"] for one in runs] for name, runs in of.items()}
    spread = max(max(values) - min(values) for values in scores.values())
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    excess = {name: mean - means[reference] for name, mean in means.items() if name != reference}
    same = [f"{name} ({more:+.2f})" for name, more in excess.items() if abs(more) <= spread]
    better = [f"{name} ({more:+.2f})" for name, more in excess.items() if more < -spread]
    worse = [f"{name} ({more:+.2f})" for name, more in excess.items() if more > spread]
    groups = {"within that of": same, "better than": better, "worse than": worse}
    found = "; ".join(f"{how} *{reference}*: {', '.join(of)}" for how, of in groups.items() if of)
    return (
        f"Attacked at eps 8, the seeds of one row differ by up to {spread:.2f} bits/dim in the "
        f"mean. By that measure, averaged over the seeds, {found}."
    )


def section_fast_attacks(run: dict) -> str:
    settings, reference = run["settings"], run["reference"]
    of: dict[str, list[dict]] = {name: [] for name in run["milliseconds"]}
    for one in run["rows"]:
        of[one["name"]].append(one)
    seeds = max(len(runs) for runs in of.values())

    cost = run["milliseconds"]
    titles = ["clean mean", "eps 4 mean", "eps 4 median", "eps 8 mean", "eps 8 median"]
    columns = [("0", "mean"), ("4", "mean"), ("4", "median"), ("8", "mean"), ("8", "median")]
    rows = [["attack in training", "CPU ms per step", "price", *titles]]
    for name, runs in of.items():
        cells = [", ".join(f"{one[eps][key]:,.2f}" for one in runs) or "-" for eps, key in columns]
        price = f"{cost[name] / cost[reference]:.2f}x"
        rows.append([name, f"{cost[name]:.0f}", price, *cells])

    visits = settings["num_steps"] * settings["batch"] / settings["images"]
    parts = [
        FAST_ATTACKS,
        "Set-up: a Glow with L = 2, K = 4, width 32 on 16x16 photos, trained from nothing on "
        f"{settings['images']:,} crops for {settings['num_steps']} optimiser steps of "
        f"{settings['batch']} images, half of them attacked, each at a radius of its own up to "
        f"eps 8: every crop is seen {visits:.0f} times and attacked {visits / 2:.0f} times. "
        "*Warmed up*: the number of attack steps grows over the first half of the run. All models "
        f"are then attacked by the same {settings['attack_steps']} steps on "
        f"{settings['test_images']} test crops. Bits/dim, lower is better"
        + (f"; one number per seed, {seeds} seeds." if seeds > 1 else "; one seed."),
        markdown(rows, numbers=7),
        "CPU time is that which the process spends in its own code on one thread, the least of "
        f"{settings['rounds']} runs of {settings['timed_steps']} steps that take turns; *price* is "
        f"that against *{reference}*.",
    ]
    if not all(of.values()):
        parts.append(
            "A dash: timed, not trained yet. The command below goes on with what is missing."
        )
    if seeds > 1:
        hardened = {name: of[name] for name in of if name != fast_attacks.CLEAN}
        parts.append(verdict({k: v for k, v in hardened.items() if len(v) == seeds}, reference))
    else:
        parts.append("With one seed, differences may be luck: nothing here says how large that is.")
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


OPTIMIZERS = """
`training.fit` knows three optimizers. The same tiny Glow (L = 2, K = 4, width 32, 16x16 photos) is
trained clean from nothing with each at several peak rates: how likely are test crops afterwards,
how likely are they under attack, and what does a step cost?
"""


def section_optimizers(run: dict) -> str:
    settings = run["settings"]
    titles = ["clean mean", "clean median", "eps 8 mean", "eps 8 median", "CPU ms per step"]
    rows = [["optimizer", "peak rate", *titles]]
    for one in run["runs"]:
        cells = ["diverged"] * 4 + ["-"]
        if "0" in one:
            cells = [f"{one[eps][key]:,.2f}" for eps in ("0", "8") for key in ("mean", "median")]
            cells.append(f"{one['ms_per_step']:.0f}")
        rows.append([one["optimizer"], f"{one['learning_rate']:g}", *cells])
    best = {}
    for one in (one for one in run["runs"] if "0" in one):
        name = one["optimizer"]
        if name not in best or one["0"]["mean"] < best[name]["0"]["mean"]:
            best[name] = one
    order = sorted(best, key=lambda name: best[name]["0"]["mean"])
    found = "; ".join(f"{name} {best[name]['0']['mean']:.2f} at rate "
                      f"{best[name]['learning_rate']:g}" for name in order)  # fmt: skip
    parts = [
        OPTIMIZERS,
        f"{settings['num_steps']} steps of {settings['batch']} images out of "
        f"{settings['images']:,}; {settings['test_images']} test crops, attacked by 50 steps; one "
        "seed.",
        markdown(rows, numbers=6),
        f"By the clean mean, each at its best rate: {found}.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


SECTIONS: dict[str, tuple[str, Callable[[dict], str], str]] = {
    "worst_case": (
        "The worst case of a Gaussian",
        section_worst_case,
        "python benchmarks/worst_case.py --json results/worst_case.json",
    ),
    "glow_speed": (
        "The speed of Glow",
        section_glow,
        "python benchmarks/glow_speed.py --json results/glow_speed.json",
    ),
    "attack_libraries": (
        "What the attack libraries do with a density",
        section_libraries,
        "python benchmarks/attack_libraries.py --json results/attack_libraries.json",
    ),
    "fast_attacks": (
        "Cheaper attacks in training: price and effect",
        section_fast_attacks,
        "python benchmarks/fast_attacks.py --seeds 0 1 --json results/fast_attacks.json",
    ),
    "optimizers": (
        "Adam, Adamax, Muon",
        section_optimizers,
        "python benchmarks/optimizers.py --json results/optimizers.json",
    ),
    "long_attacks": (
        "Longer attacks on the robust models",
        section_long_attacks,
        "python benchmarks/long_attacks.py --data cifar10=PATH celeba=PATH "
        "--json results/long_attacks.json",
    ),
    "long_attacks_small": (
        "Longer attacks in smaller balls",
        section_smaller_balls,
        "python benchmarks/long_attacks.py --data cifar10=PATH --sets cifar10 photos "
        "--at eps1:1 eps2:2 eps4:4 hybrid:1 hybrid:2 hybrid:4 --steps 100 1000 --limit 6 "
        "--json results/long_attacks_small.json",
    ),
    "price": (
        "What convergence costs",
        section_price,
        "python benchmarks/price.py --json results/price.json",
    ),
    "certified": (
        "Certificates by median smoothing",
        section_certified,
        "python benchmarks/certified.py --json results/certified.json",
    ),
}


def provenance(run: dict) -> str:
    """One line: the command, and where and when it ran."""
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    machine = ", ".join(f"{key} {value}" for key, value in run["machine"].items())
    return (
        f"Made by `{run['command']}` on {run['date']} in {run['duration_s']:.0f} s, "
        f"with {versions} ({machine})." + (f" {run['note']}" if "note" in run else "")
    )


def render(results: Path = ROOT / "results") -> str:
    """The whole of docs/benchmarks.md."""
    parts = [HEAD]
    for name, (title, section, command) in SECTIONS.items():
        path = results / f"{name}.json"
        if path.exists():
            run = json.loads(path.read_text(encoding="utf-8"))
            body = f"{section(run).strip()}\n\n{provenance(run)}"
        else:
            body = f"Not measured yet: run `{command}`, then this generator."
        parts.append(f"## {title}\n\n{body}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("benchmarks.md").write_text(render(), encoding="utf-8")
