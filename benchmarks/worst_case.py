"""Time the exact worst case against what it cannot avoid, and against two library routes.

    python benchmarks/worst_case.py [--threads 1] [--repeats 5] [--clock wall] [--json PATH]

prints one Markdown table. Every time is the least of some repeats, in seconds. All of them start
from the covariance and end with delta:

* floor: what no method avoids, one eigendecomposition and two matrix products;
* ours: the GaussianFlow is made from its covariance, then `worst_case`;
* find_root: the same with `scipy.optimize.elementwise.find_root` on the secular equation;
* trust region: `scipy.optimize._trustregion_exact.IterativeSubproblem`, the exact solver of the
  trust-region subproblem, one point at a time, timed on the first few points and multiplied up.

On a busy machine `--clock cpu` with one thread counts the processor's seconds instead.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import elementwise
from scipy.optimize._trustregion_exact import IterativeSubproblem

from flowrob.evaluation import pipe_table
from flowrob.linear import GaussianFlow, worst_case
from flowrob.records import circumstances, command_line, write_json

RADIUS = 1.0
TOLERANCE = 1e-10  # relative, of |delta| and of the objective, in the trust-region solver


def seconds(call: Callable[[], object], clock: Callable[[], float], repeats: int = 1) -> float:
    """The least of several times, after one call to warm up if there are several."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times[-repeats:])


def problem(n: int, num_points: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A random covariance of condition about 400 and points drawn from it; the mean is 0."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    covariance = root @ root.T / n + 0.01 * torch.eye(n, dtype=torch.float64)
    flow = GaussianFlow(torch.zeros(n), covariance)
    return covariance, flow.sample(num_points, generator)


def floor(covariance: torch.Tensor, x: torch.Tensor) -> None:
    vectors = torch.linalg.eigh(covariance).eigenvectors
    torch.mm(torch.mm(x, vectors), vectors.T)


def ours(covariance: torch.Tensor, x: torch.Tensor) -> np.ndarray:
    return worst_case(
        GaussianFlow(torch.zeros(len(covariance)), covariance), x, RADIUS
    ).drop.numpy()


def with_find_root(covariance: torch.Tensor, x: torch.Tensor) -> np.ndarray:
    """The library route: bracketed root finding on 1/|d| = 1/radius, vectorised over the points.

    `find_root` hands its function only the points still at work: their rows of b go by index. The
    hard case, and points so near to it that the bracket closes, would need code of their own.
    """
    flow = GaussianFlow(torch.zeros(len(covariance)), covariance)
    lam = flow.eigenvalues.numpy()
    b = ((x - flow.mean) @ flow.eigenvectors).numpy()
    b *= lam[0] / lam / RADIUS
    w = (lam - lam[0]) / lam
    norm = np.linalg.norm(b, axis=1)
    low = np.maximum(np.abs(b[:, 0]), norm - w.max())
    found = elementwise.find_root(
        lambda t, rows: 1 / np.linalg.norm(b[rows] / (w + t[:, None]), axis=1) - 1,
        (low * (1 - 1e-12), norm * (1 + 1e-12)),
        args=(np.arange(len(b)),),
    )
    assert found.success.all(), "find_root did not converge"
    with_find_root.evaluations = found.nfev.mean()
    d = b / (w + found.x[:, None])
    torch.from_numpy(RADIUS * d) @ flow.eigenvectors.T  # this route, too, ends with delta
    return (d * (b + lam[0] / lam * d / 2)).sum(1) * RADIUS**2 / lam[0]


def with_trust_region(covariance: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The deltas of scipy's solver of: minimise -drop on |delta| <= radius."""
    precision, deltas = torch.linalg.inv(covariance).numpy(), []
    for point in x.numpy():
        gradient = precision @ point
        subproblem = IterativeSubproblem(
            np.zeros_like(point),
            lambda _: 0.0,
            lambda _, gradient=gradient: -gradient,
            lambda _: -precision,
            k_easy=TOLERANCE,
            k_hard=TOLERANCE,
        )
        delta, _ = subproblem.solve(RADIUS)
        deltas.append(delta * (RADIUS / np.linalg.norm(delta)))  # to the sphere: feasible
    return torch.from_numpy(np.array(deltas))


def evaluate(flow: GaussianFlow, x: torch.Tensor, delta: torch.Tensor) -> np.ndarray:
    """The drop of any delta, by one formula for all: sum_i d_i (a_i + d_i / 2) / lam_i."""
    a, d = ((v @ flow.eigenvectors).numpy() for v in (x - flow.mean, delta))
    return (d * (a + d / 2) / flow.eigenvalues.numpy()).sum(1)


def measure(n: int, num_points: int, subsample: int, clock, repeats: int) -> dict:
    covariance, x = problem(n, num_points)
    drops, library = ours(covariance, x), with_find_root(covariance, x)
    result = {
        "n": n,
        "points": num_points,
        "floor": seconds(lambda: floor(covariance, x), clock, repeats),
        "ours": seconds(lambda: ours(covariance, x), clock, repeats),
        "find_root": seconds(lambda: with_find_root(covariance, x), clock, repeats),
        "find_root_evaluations": float(with_find_root.evaluations),
        "find_root_drop": [float((library / drops - 1).min()), float((library / drops - 1).max())],
    }
    if subsample:
        found = []
        spent = seconds(lambda: found.append(with_trust_region(covariance, x[:subsample])), clock)
        flow, some = GaussianFlow(torch.zeros(n), covariance), x[:subsample]
        best = evaluate(flow, some, worst_case(flow, some, RADIUS).delta)
        change = evaluate(flow, some, found[0]) / best - 1
        result |= {
            "trust_region": spent / subsample * num_points,
            "trust_region_timed_points": subsample,
            "trust_region_drop": [float(change.min()), float(change.max())],
        }
    return result


def table(results: list[dict]) -> str:
    """Drops are given relative to ours, least and greatest over the points."""
    head = ["n", "points", "floor", "ours", "ours/floor"]
    head += ["find_root", "its drop", "/floor", "/ours", "trust region", "its drop", "/ours"]
    lines = []
    for r in results:
        row = [f"{r['n']}", f"{r['points']:,}", f"{r['floor']:.3g}", f"{r['ours']:.3g}"]
        row += [f"{r['ours'] / r['floor']:.2f}", f"{r['find_root']:.3g}"]
        row += ["{:+.0e} to {:+.0e}".format(*r["find_root_drop"])]
        row += [f"{r['find_root'] / r['floor']:.2f}", f"{r['find_root'] / r['ours']:.2f}"]
        if "trust_region" in r:
            row += [f"{r['trust_region']:.3g} (from {r['trust_region_timed_points']})"]
            row += ["{:+.0e} to {:+.0e}".format(*r["trust_region_drop"])]
            row += [f"{r['trust_region'] / r['ours']:,.0f}"]
        lines.append(row + ["-"] * (len(head) - len(row)))
    return pipe_table(head, lines).replace(" --- ", " --: ")  # numbers stand on the right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of torch and BLAS (default 1)")
    parser.add_argument("--repeats", type=int, default=5, help="of which the least time counts")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="what to count")
    parser.add_argument("--json", metavar="PATH", help="write the numbers there as well")
    arguments = parser.parse_args()
    started, load = time.monotonic(), os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    sizes = [(1000, 10_000, 0), (10, 100_000, 0), (100, 1000, 50), (1000, 1000, 3)]
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    results = [measure(*size, clock, arguments.repeats) for size in sizes]
    command = command_line("python benchmarks/worst_case.py", sys.argv[1:])
    content = circumstances(started, command, ("numpy", "scipy"))
    content["machine"] |= {"clock": arguments.clock, "load": round(load, 1)}
    made = content["machine"] | content["versions"]
    print(", ".join(f"{key} {value}" for key, value in made.items()), "\n")
    print(table(results))
    write_json(arguments.json, content | {"results": results})


if __name__ == "__main__":
    main()
