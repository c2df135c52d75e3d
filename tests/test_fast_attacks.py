"""benchmarks/fast_attacks.py runs, and its section says what is within the noise of the seeds."""

import json
import sys

import pytest
import torch
from scripts import load_script

from flowrob.training import Loss

benchmarks = load_script("docs/build_benchmarks.py")
script = load_script("benchmarks/fast_attacks.py")


def made_up(*rows):
    """A result with rows (name, seed, ms per step, clean mean, mean at eps 8)."""
    runs = [
        {
            "name": name,
            "seed": seed,
            "0": {"mean": clean, "median": clean},
            "4": {"mean": 5.5, "median": 5.25},
            "8": {"mean": attacked, "median": 1234.5},
        }
        for name, seed, _, clean, attacked in rows
    ]
    sizes = {"num_steps": 400, "images": 2000, "test_images": 7, "attack_steps": 50, "batch": 64}
    return {
        "rows": runs,
        "settings": sizes | {"rounds": 3, "timed_steps": 20},
        "milliseconds": {name: cost for name, _, cost, _, _ in rows},
        "reference": script.REFERENCE,
    }


def test_the_section_shows_both_seeds_the_price_and_what_is_noise():
    text = benchmarks.section_fast_attacks(
        made_up(
            (script.CLEAN, 0, 20.0, 4.0, 300.0),
            (script.CLEAN, 1, 20.0, 4.0, 900.0),
            (script.REFERENCE, 0, 100.0, 5.0, 6.0),
            (script.REFERENCE, 1, 100.0, 5.1, 6.2),
            ("3 steps", 0, 40.0, 4.9, 6.1),
            ("3 steps", 1, 40.0, 4.9, 6.3),
            ("1 step", 0, 25.0, 4.8, 7.0),
            ("1 step", 1, 25.0, 4.8, 7.1),
        )
    )
    assert "| 3 steps | 40 | 0.40x | 4.90, 4.90 |" in text
    assert "6.10, 6.30 | 1,234.50, 1,234.50 |" in text
    assert "differ by up to 0.20 bits/dim" in text  # the clean model's 600 are no noise of attacks
    assert "within that of *10 steps*: 3 steps (+0.10)" in text
    assert "worse than *10 steps*: 1 step (+0.95)" in text and "better than" not in text
    assert "every crop is seen 13 times and attacked 6 times" in text and "2 seeds" in text


def test_a_model_whose_second_seed_is_missing_is_shown_but_not_judged():
    text = benchmarks.section_fast_attacks(
        made_up(
            (script.REFERENCE, 0, 100.0, 5.0, 6.0),
            (script.REFERENCE, 1, 100.0, 5.1, 6.2),
            ("1 step", 0, 25.0, 4.8, 7.0),
        )
    )
    assert "| 1 step | 25 |" in text and "1 step (" not in text


def test_one_seed_claims_nothing_about_noise():
    text = benchmarks.section_fast_attacks(made_up((script.REFERENCE, 0, 90.0, 5.0, 6.0)))
    assert "one seed" in text and "may be luck" in text and "differ by up to" not in text


def test_a_model_that_is_not_trained_yet_shows_its_price_alone():
    run = made_up((script.REFERENCE, 0, 90.0, 5.0, 6.0))
    run["milliseconds"]["1 step"] = 45.0
    text = benchmarks.section_fast_attacks(run)
    assert "| 1 step | 45 | 0.50x | - | - |" in text and "timed, not trained yet" in text
    assert "timed, not trained yet" not in benchmarks.section_fast_attacks(
        made_up((script.REFERENCE, 0, 90.0, 5.0, 6.0))
    )


@pytest.mark.parametrize("name", script.VARIANTS)
def test_every_variant_is_a_run_that_fit_accepts(name, images_16):
    flow = script.train(images_16, script.VARIANTS[name], 2, 0)
    assert not flow.training


@pytest.fixture(scope="module")
def images_16():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (64, 3, 16, 16), generator=generator, dtype=torch.uint8)


def test_seeds_draw_other_weights_and_the_same_seed_the_same(images_16):
    options = script.VARIANTS["1 step"]
    first, again, other = (
        next(script.train(images_16, options, 1, seed).parameters()) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_ramps_are_shares_of_the_run():
    found = script.arguments(script.VARIANTS["10 steps, warmed up"], 400)
    loss = found["loss"]
    assert (loss.attack_warmup_steps, loss.eps_warmup_steps, loss.random_eps) == (200, 50, 1.0)
    assert found["update"].warmup_steps == 20
    assert script.arguments(script.VARIANTS[script.CLEAN], 400)["loss"] == Loss.of("clean")


def test_the_script_runs_at_a_tiny_size_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path, threads = tmp_path / "fast_attacks.json", torch.get_num_threads()
    names = (script.REFERENCE, "1 step, reused")
    monkeypatch.setattr(script, "VARIANTS", {name: script.VARIANTS[name] for name in names})
    small = ["--num-steps", "1", "--every", "100", "--limit", "2", "--attack-steps", "1"]
    small += ["--timed-steps", "1", "--rounds", "1", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["fast_attacks.py", *small])
    trained = []
    monkeypatch.setattr(
        script, "train", lambda *given, of=script.train: trained.append(given[1:]) or of(*given)
    )
    try:
        script.main()
        run = json.loads(path.read_text(encoding="utf-8"))
        assert [one["name"] for one in run["rows"]] == list(names) == list(run["milliseconds"])
        assert run["settings"]["test_images"] == 2
        for one in run["rows"]:
            assert one["8"]["mean"] >= one["0"]["mean"]
        assert "| 1 step, reused |" in benchmarks.render(tmp_path)
        lost = run["rows"].pop()
        path.write_text(json.dumps(run), encoding="utf-8")
        trained.clear()
        script.main()
    finally:
        torch.set_num_threads(threads)
    again = json.loads(path.read_text(encoding="utf-8"))
    assert again["rows"][-1] == lost and again["milliseconds"] == run["milliseconds"]
    assert trained == [(script.VARIANTS["1 step, reused"], 1, 0)]
    assert again["duration_s"] > run["duration_s"]
