"""Writes docs/benchmarks.md from results/*.json: speed of two kinds, and other attack libraries.

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

import worst_case  # noqa: E402  a script beside this folder, found by the line above

HEAD = """# Benchmarks

Three questions, each answered by one script in `benchmarks/`. This file is written by
`python docs/build_benchmarks.py` from what those scripts left in `results/`: no number in it is
typed by hand, and `python -m pytest tests/test_docs.py` asserts that it is up to date.
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


def section_worst_case(run: dict) -> str:
    return f"{WORST_CASE}\n{worst_case.table(run['results'])}\n"


def section_glow(run: dict) -> str:
    best, settings = run["milliseconds"], run["settings"]
    base = next(iter(best.values()))
    rows = [["", "forward", "attack step", "training step"], ["---"] * 4]
    for name, of in best.items():
        rows.append([name] + [f"{of[job]:.0f} ms ({of[job] / base[job]:.2f}x)" for job in base])
    threads = f"{settings['threads']} thread" + "s" * (settings["threads"] != 1)
    note = f"Batch {settings['batch']}, {threads}, {settings['rounds']} rounds."
    return f"{GLOW}\n{note}\n\n{markdown(rows)}\n"


def section_libraries(run: dict) -> str:
    settings, eps = run["settings"], [str(e) for e in run["settings"]["eps"]]
    tried = [row for row in run["rows"] if "results" in row and "lines" in row]
    ran = [row for row in tried if "mean" in row["results"][eps[0]]]
    unmoved = [row for row in ran if all(row["results"][e]["moved"] == 0 for e in eps)]
    references = [row for row in run["rows"] if row["library"] == "none"]
    missing = [row["library"] for row in run["rows"] if row["outcome"] == "not installed"]

    handed = [["library", "what it is given", "what happens"], ["---"] * 3]
    for row in tried:
        if row["naive"] or row in unmoved:
            handed.append([row["library"], row["way"], row["outcome"]])

    head = ["library", "way", "lines", *(f"eps {e}" for e in eps), "best iterate lost"]
    reached = [head, ["---"] * 3 + ["--:"] * (len(head) - 3)]
    for row in references + [row for row in ran if not row["naive"] and row not in unmoved]:
        scores = [row["results"][e] for e in eps]
        cells = [f"{r['mean']:,.2f} / {r['median']:,.2f}" for r in scores]
        lost = f"{scores[-1]['lost']:.2f}" if "lost" in scores[-1] else ""
        library = "" if row in references else row["library"]
        reached.append([library, row["way"], str(row.get("lines", "")), *cells, lost])

    titles = ["loss", "ball", "box", "best iterate", "reports"]
    facts = [["", *titles, "fills the weights' `.grad`"], ["---"] * 7]
    for library, fact in run["facts"].items():
        mine = [r for row in ran if row["library"] == library for r in row["results"].values()]
        touched = "yes" if any(r["weights_grad"] for r in mine) else "no"
        facts.append([library, *(fact[t] for t in titles), touched if mine else "not measured"])

    every = [row["results"][e] for row in ran for e in eps]
    outside = max(max(r["outside_ball"] / 256, r["outside_box"]) for r in every)
    theirs = [row["results"][e] for row in ran if row["library"] != "flowrob" for e in eps]
    dead = [r for r in theirs if r["live_gradients"] == 0]
    spoke = sum(bool(r["said"]) for r in theirs)
    gradients = sorted({r["gradients"] for r in every} - {0})
    targeted = [row for row in ran if "targeted" in row["way"]]
    parts = [
        LIBRARIES,
        f"Set-up: {settings['num']} test photos under `{settings['model']}`, {settings['steps']} "
        f"steps ({' to '.join(map(str, gradients))} gradients counted inside the model), the same "
        "images, ball and box for all, steps of 2.5 eps / steps from the clean image unless said "
        "otherwise; the returned points are scored by one function, in float64.",
        "### Handed over as a model",
        markdown(handed),
        READ_NAIVE.strip(),
        "### With glue",
        "Bits/dim reached, mean / median; higher is a better attack. *Lines* counts the code of "
        "that way, imports and the `Logits` module included. *Best iterate lost*: "
        f"the mean bits/dim between the worst point that the attack saw at eps {eps[-1]} and the "
        "one that it returned.",
        markdown(reached),
        "*Shifted*: (log p - c, c - log p) with c above every log p, so that the cross-entropy is "
        "2 (c - log p), linear. *Targeted*: the second logit as a target, whose cross-entropy "
        "saturates as soon as log p is below 0, at 8 bits/dim"
        + "".join(
            f"; {row['library']} had a gradient in {row['results'][eps[-1]]['live_gradients']} of "
            f"{row['results'][eps[-1]]['gradients']} steps at eps {eps[-1]}"
            for row in targeted[:1]
        )
        + ".",
        comparison(ran, eps),
        "### What each one enforces, keeps and says",
        markdown(facts),
        "The last column is measured, the others are read in the source of the versions below "
        f"(autoattack: in its repository). No run left the ball or the box by more than "
        f"{outside:.1g}. Of the {len(theirs)} runs in which another library returned images, "
        f"{len(dead)} had a zero gradient at every step or made none, and {spoke} of all said "
        "anything, by warning, log or print.",
    ]
    if missing:
        names = ", ".join(missing)
        parts.append(
            f"Not installed in this run: {names}. (AutoAttack is not on PyPI: its documentation "
            "installs it from its repository. torchattacks has its APGD.)"
        )
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


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


def markdown(rows: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)


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
}


def provenance(run: dict) -> str:
    """One line: the command, and where and when it ran."""
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    machine = ", ".join(f"{key} {value}" for key, value in run["machine"].items())
    return (
        f"Made by `{run['command']}` on {run['date']} in {run['duration_s']:.0f} s, "
        f"with {versions} ({machine})."
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
