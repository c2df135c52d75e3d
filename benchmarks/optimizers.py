"""How far each optimizer gets in a fixed number of steps, and how fragile its likelihood is.

    python benchmarks/optimizers.py                                 one Markdown table
    python benchmarks/optimizers.py --json results/optimizers.json

Trains the same tiny Glow clean on the same 16x16 photos, with the same batches and seed each time,
and scores test crops, clean and attacked. Seconds are those of the process, so that a busy machine
does not distort them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch

from flowrob import data, flows
from flowrob.evaluation import pipe_table, robustness_table
from flowrob.records import circumstances, command_line, write_json
from flowrob.training import TrainingDiverged, Update, fit
from flowrob.training.update import OPTIMIZERS

EPS, ATTACK_STEPS = (0, 8), 50


def train(name: str, rate: float, num_steps: int, images, test) -> dict:
    """Bits/dim on train and test crops after the run, clean and attacked; ms per step."""
    flow, started = flows.glow((3, 16, 16), 2, 4, 32), time.process_time()
    run = {"optimizer": name, "learning_rate": rate}
    update = Update(name, learning_rate=rate, warmup_steps=num_steps // 20)
    try:
        history = fit(flow, images, num_steps=num_steps, update=update, progress=False)
    except TrainingDiverged as error:
        return run | {"diverged": str(error)}
    cost = 1e3 * (time.process_time() - started) / num_steps
    table = robustness_table(
        flow.log_prob,
        test,
        EPS,
        generator=torch.Generator().manual_seed(0),
        attack_options={"num_steps": ATTACK_STEPS},
    )
    for row in table.rows:
        if row["row"] in ("clean", "attacked"):
            run[str(row["eps"])] = {key: round(row[key], 4) for key in ("mean", "median")}
    last = history.loss[-num_steps // 10 :]
    return run | {"train": round(sum(last) / len(last), 4), "ms_per_step": round(cost, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-steps", type=int, default=400)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 4e-3, 1.6e-2])
    parser.add_argument("--limit", type=int, default=100, help="test crops")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(options.threads)
    images = data.load("photos", size=16)
    test = data.load("photos", split="test", size=16)
    test = test[torch.linspace(0, len(test) - 1, min(options.limit, len(test))).long()]
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    settings |= {"images": len(images), "test_images": len(test), "batch": 64}
    train("adam", 1e-3, 1, images, test)  # a process is slow at first
    runs, lines = [], []
    for name in OPTIMIZERS:
        for rate in options.rates:
            run = train(name, rate, options.num_steps, images, test)
            runs.append(run)
            found = [run.get(str(e), {"mean": math.nan, "median": math.nan}) for e in EPS]
            cells = [f"{of['mean']:,.2f} / {of['median']:,.2f}" for of in found]
            lines.append([name, f"{rate:g}", *cells, str(run.get("ms_per_step", "diverged"))])
            print(f"{name} at rate {rate:g}: {', '.join(cells)}", flush=True)
    head = ["optimizer", "rate", "clean", "eps 8", "ms per step"]
    print(f"\n{pipe_table(head, lines)}")
    command = command_line("python benchmarks/optimizers.py", sys.argv[1:])
    content = circumstances(started, command)
    write_json(options.json, content | {"settings": settings, "runs": runs})


if __name__ == "__main__":
    main()
