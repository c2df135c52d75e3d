"""The optimizers' section of docs/benchmarks.md, and the script behind it at a tiny size."""

import json
import sys

import torch
from scripts import load_script

benchmarks = load_script("docs/build_benchmarks.py")


def test_the_script_runs_every_optimizer_and_its_section_renders(tmp_path, monkeypatch):
    import optimizers as script  # found because the generator put benchmarks/ on the path

    path = tmp_path / "optimizers.json"
    small = ["--num-steps", "20", "--rates", "0.001", "0.01", "--limit", "4"]
    threads = ["--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", ["optimizers.py", *small, *threads, "--json", str(path)])
    monkeypatch.setattr(script, "ATTACK_STEPS", 2)
    script.main()
    run = json.loads(path.read_text(encoding="utf-8"))
    assert [(one["optimizer"], one["learning_rate"]) for one in run["runs"]] == [
        (name, rate) for name in ("adam", "adamax", "muon") for rate in (0.001, 0.01)
    ]
    for one in run["runs"]:
        assert 2 < one["0"]["mean"] < one["8"]["mean"] and one["ms_per_step"] > 0
    text = benchmarks.section_optimizers(run)
    assert text.count("| muon |") == 2 and "4 test crops" in text


def test_the_best_rate_of_each_is_named_and_divergence_is_shown():
    def one(name, rate, mean):
        scores = {"0": {"mean": mean, "median": mean}, "8": {"mean": 9.0, "median": 8.5}}
        return {"optimizer": name, "learning_rate": rate, "ms_per_step": 3.0, **scores}

    runs = [one("adam", 0.1, 5.0), one("adam", 0.2, 4.5), one("muon", 0.1, 4.0)]
    runs.append({"optimizer": "muon", "learning_rate": 0.2, "diverged": "the loss is nan"})
    settings = {"num_steps": 4, "batch": 64, "images": 1000, "test_images": 7}
    text = benchmarks.section_optimizers({"settings": settings, "runs": runs})
    assert "muon 4.00 at rate 0.1; adam 4.50 at rate 0.2" in text
    assert "| muon | 0.2 | diverged | diverged | diverged | diverged | - |" in text
