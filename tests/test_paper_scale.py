"""docs/paper_scale.md is what its generator makes of results/, and its script counts rightly."""

import json
import sys

import numpy as np
import pytest
import torch
from scripts import ROOT, load_script
from torch.utils.flop_counter import FlopCounterMode

from flowrob import flows
from flowrob.training import Loss

script = load_script("benchmarks/paper_cost.py")
paper_scale = load_script("docs/build_paper_scale.py")

PUBLISHED = (ROOT / "docs/paper_scale.md").read_text(encoding="utf-8")
RUN = json.loads((ROOT / "results/paper_cost.json").read_text(encoding="utf-8"))


def tiny(width=8, num_steps=2):
    flow = flows.glow((3, 8, 8), 2, num_steps, width)
    return script.initialized(flow, torch.rand(16, 3, 8, 8))


def test_the_published_file_is_what_the_generator_writes():
    assert paper_scale.render() == PUBLISHED, "run python docs/build_paper_scale.py"


def test_a_changed_result_changes_the_file(tmp_path):
    run = json.loads(json.dumps(RUN))
    run["runs"]["cpu_seconds"]["adversarial"] = 12345 * 3.6
    run["models"]["line"]["training"]["predicted"] = 4321.09
    run["sizes"][script.PAPER]["parameters"] = 987_654_321
    (tmp_path / "paper_cost.json").write_text(json.dumps(run), encoding="utf-8")
    text = paper_scale.render(tmp_path)
    for number in ("12,345 h", "4321.1 s", "987,654,321"):
        assert number in text and number not in PUBLISHED


def test_a_missing_result_names_its_command(tmp_path):
    assert "`python benchmarks/paper_cost.py --json" in paper_scale.render(tmp_path)


def test_assumptions_stand_in_the_file_as_such():
    low, high = RUN["assumed"]["utilisation"]
    text = " ".join(PUBLISHED.split())
    assert f"assumption: {100 * low:.0f}% to {100 * high:.0f}% of the peak, not measured" in text
    assert "no GPU was measured" in text


def test_hours_on_a_gpu_are_flops_over_peak_times_utilisation():
    low, high = RUN["assumed"]["utilisation"]
    steps = RUN["assumed"]["epochs"] * (50_000 // RUN["settings"]["batch"])
    work = steps * RUN["runs"]["flops"]["adversarial"] / 19.5e12
    span = f"{paper_scale.hours(work / high)} to {paper_scale.hours(work / low)}"
    (line,) = (of for of in PUBLISHED.splitlines() if of.startswith("| A100 80GB SXM | fp32"))
    assert line.endswith(f"{span} |")


def test_counts_scale_with_the_batch():
    flow, x = tiny(), torch.rand(5, 3, 8, 8)
    counts = script.counted(flow, x)
    assert counts["parameters"] == sum(p.numel() for p in flow.parameters())
    for job in script.JOBS:
        with FlopCounterMode(display=False) as counter:
            script.jobs(flow, x)[job]()
        each, once = counts["flops"][job]
        assert counter.get_total_flops() == 5 * each + once
    for job, (each, once) in counts["kept_bytes"].items():
        assert script.kept_bytes(script.jobs(flow, x)[job], flow) == 5 * each + once


def test_flops_are_those_of_the_convolutions():
    """One 3x3 convolution by hand: 2 x 9 x in x out per pixel, in the forward pass."""
    conv = torch.nn.Conv2d(4, 6, 3, padding=1, bias=False)
    conv.log_prob = lambda x: conv(x).flatten(1).sum(1)
    counts = script.counted_flops(conv, torch.rand(2, 4, 5, 5))
    forward = 2 * 9 * 4 * 6 * 25
    assert counts["forward"] == (forward, 0)
    assert counts["attack"] == (2 * forward, 0)  # and the gradient in x
    assert counts["training"] == (2 * forward, 0)  # and that in the weights: x asks for none


def test_kept_bytes_count_a_storage_once_and_no_parameter():
    module = torch.nn.Linear(3, 3, bias=False)
    x = torch.rand(7, 3, requires_grad=True)  # so that the product keeps the weight, too

    def job():
        y = module(x)  # keeps x and the weight
        (y.tanh() * x.view(7, 3)).sum().backward()  # keeps tanh(y), and x again through a view

    assert script.kept_bytes(job, module) == 2 * x.numel() * 4


def test_the_jobs_leave_the_weights_as_they_are():
    flow, x = tiny(), torch.rand(2, 3, 8, 8)
    before = [p.detach().clone() for p in flow.parameters()]
    for run in script.jobs(flow, x).values():
        run()
    assert all(torch.equal(a, b) for a, b in zip(before, flow.parameters(), strict=True))
    assert all(p.requires_grad for p in flow.parameters())


def test_an_attack_in_training_asks_for_as_many_gradients_as_counted():
    calls, flow, seen = script.attack_calls(3), tiny(), {"gradients": 0, "forwards": 0}
    plain = flow.log_prob

    def log_prob(x):
        seen["gradients" if x.requires_grad else "forwards"] += 1
        return plain(x)

    flow.log_prob = log_prob
    radius, attack = torch.full((2,), 8 / 256), Loss.of("adversarial", attack_steps=3)
    attack.perturb(flow, torch.rand(2, 3, 8, 8), radius, 3)
    assert seen == calls == {"gradients": 3, "forwards": 1}


def test_a_run_costs_a_training_step_and_its_attacks():
    costs = script.run_costs(
        {"forward": 1.0, "attack": 10.0, "training": 100.0}, {"gradients": 3, "forwards": 2}
    )
    assert costs == {"clean": 100.0, "hybrid": 116.0, "adversarial": 132.0}


def test_the_fit_finds_exact_constants_and_says_where_a_size_does_not_fit():
    flops = np.array([1e9, 4e9, 9e9, 2e10])
    features = np.stack([np.ones(4), flops], 1)
    seconds = 0.25 + flops / 1e10
    model = script.cost_model(features, seconds, np.array([1.0, 1e11]))
    assert model["constants"] == pytest.approx([0.25, 1e-10])
    assert model["predicted"] == pytest.approx(10.25)
    assert np.abs(model["held_out"]).max() < 1e-9
    seconds[3] *= 2
    spoilt = script.cost_model(features, seconds, np.array([1.0, 1e11]))
    assert spoilt["held_out"][3] == pytest.approx(-0.5)
    assert np.abs(spoilt["residuals"]).max() > 0.05


def test_the_script_runs_at_a_tiny_size(tmp_path, monkeypatch):
    path = tmp_path / "paper_cost.json"
    threads = torch.get_num_threads()
    small = {f"width {w}": lambda w=w: flows.glow((3, 32, 32), 1, 1, w) for w in (2, 4, 8)}
    monkeypatch.setattr(script, "SIZES", small)
    monkeypatch.setattr(script, "paper_model", lambda: flows.glow((3, 32, 32), 1, 2, 8))
    rounds = ["--batch", "2", "--rounds", "1", "--paper-rounds", "1", "--at-least", "0"]
    monkeypatch.setattr(sys, "argv", ["paper_cost.py", *rounds, "--json", str(path)])
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)
    run = json.loads(path.read_text(encoding="utf-8"))
    assert run["command"].startswith("python benchmarks/paper_cost.py --batch 2")
    each, once = run["sizes"][script.PAPER]["flops"]["training"]
    assert run["runs"]["flops"]["clean"] == 2 * each + once
    assert "width 4" in paper_scale.render(tmp_path)
