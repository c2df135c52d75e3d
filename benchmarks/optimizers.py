"""How far each optimizer gets in a fixed number of steps, over learning rates.

    python benchmarks/optimizers.py                                 one Markdown table
    python benchmarks/optimizers.py --json results/optimizers.json

Trains the same tiny Glow clean on the same 16x16 photos, with the same batches and seed each time,
and scores test crops. Seconds are those of the process, so that a busy machine does not distort
them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from record import record

from flowrob import data, flows
from flowrob.evaluation import robustness_table
from flowrob.training import OPTIMIZERS, TrainingDiverged, fit


def train(name: str, rate: float, num_steps: int, images, test) -> dict:
    """Bits/dim on train and test crops after the run, and milliseconds per step."""
    flow, started = flows.glow((3, 16, 16), 2, 4, 32), time.process_time()
    run = {"optimizer": name, "learning_rate": rate}
    try:
        history = fit(
            flow,
            images,
            num_steps=num_steps,
            warmup_steps=num_steps // 20,
            optimizer=name,
            learning_rate=rate,
            progress=False,
        )
    except TrainingDiverged as error:
        return run | {"diverged": str(error)}
    cost = 1e3 * (time.process_time() - started) / num_steps
    row = robustness_table(flow.log_prob, test, [0], generator=torch.Generator().manual_seed(0))
    run |= {key: round(row.rows[0][key], 4) for key in ("mean", "median")}
    last = history.loss[-num_steps // 10 :]
    return run | {"train": round(sum(last) / len(last), 4), "ms_per_step": round(cost, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-steps", type=int, default=400)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2])
    parser.add_argument("--limit", type=int, help="at most so many test crops")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    started = time.perf_counter()
    torch.set_num_threads(options.threads)
    images = data.load("photos", size=16)
    test = data.load("photos", split="test", size=16, limit=options.limit)
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    settings |= {"images": len(images), "test_images": len(test), "batch": 64}
    train("adam", 1e-3, 1, images, test)  # a process is slow at first
    print("| optimizer | rate | test mean / median | ms per step |\n|---|---|---|---|")
    runs = []
    for name in OPTIMIZERS:
        for rate in options.rates:
            run = train(name, rate, options.num_steps, images, test)
            runs.append(run)
            score = f"{run['mean']:.2f} / {run['median']:.2f}" if "mean" in run else "diverged"
            print(f"| {name} | {rate:g} | {score} | {run.get('ms_per_step', '')} |", flush=True)
    if options.json:
        content = {**record(started), "settings": settings, "runs": runs}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
