"""The benchmark of certificates: a consistent record; its script goes on where it stopped."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from scripts import ROOT, load_script

from flowrob import flows

certified = load_script("benchmarks/certified.py")

RECORD = json.loads((ROOT / "results/certified.json").read_text(encoding="utf-8"))


def test_the_record_holds_every_model_and_width_and_no_attack_passes_its_bound():
    keys = {(row["model"], row["sigma"]) for row in RECORD["rows"]}
    assert keys == {(model, sigma) for model in certified.MODELS for sigma in certified.SIGMAS}
    for row in RECORD["rows"]:
        assert row["eps"] == [row["sigma"] * ratio for ratio in certified.RATIOS]
        assert row["lower"] == sorted(row["lower"], reverse=True)
        assert row["lower"][0] <= row["median"] <= row["upper"][0] and row["upper"] == sorted(
            row["upper"]
        )
        assert row["median"] < row["attacked"] < row["upper"][-1]


def test_the_attack_climbs_the_mean_over_its_draws():
    flow = flows.glow((3, 8, 8), num_levels=1, num_steps=1, width=4)
    noise = 0.1 * torch.randn(4, 3, 8, 8, generator=certified.seeded(0))
    x = torch.rand(2, 3, 8, 8, generator=certified.seeded(1))
    flow.initialize(x)
    with torch.no_grad():
        each = torch.stack([flow.log_prob(x + move) for move in noise])
        assert torch.allclose(certified.averaged(flow, noise)(x), each.mean(0), rtol=1e-4)


def test_the_script_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    tiny = flows.glow((3, 32, 32), num_levels=1, num_steps=1, width=4)
    tiny.initialize(torch.rand(8, 3, 32, 32, generator=certified.seeded(0)))
    monkeypatch.setattr(certified.zoo, "load", lambda name, device: tiny)
    monkeypatch.setattr(certified, "STEPS", 2)
    path = tmp_path / "certified.json"
    common = ["--limit", "1", "--samples", "210", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["certified.py", "--models", "clean", *common])
    certified.main()
    first = json.loads(path.read_text(encoding="utf-8"))
    assert [row["sigma"] for row in first["rows"]] == list(certified.SIGMAS)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["certified.py", "--models", "clean", "hybrid", *common])
    certified.main()
    assert "clean" not in capsys.readouterr().out, "what was measured is not measured again"
    both = json.loads(path.read_text(encoding="utf-8"))
    assert both["rows"][:3] == first["rows"] and len(both["rows"]) == 6
    assert both["settings"]["limit"] == 1


def test_too_few_samples_are_refused_before_any_record(tmp_path, monkeypatch):
    path = tmp_path / "certified.json"
    argv = ["certified.py", "--samples", "50", "--limit", "1", "--models", "clean", "--json"]
    monkeypatch.setattr(sys, "argv", [*argv, str(path)])
    with pytest.raises(ValueError, match="too few"):
        certified.main()
    assert not path.exists()
