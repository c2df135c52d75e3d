"""flowrob train --preset NAME-ladder: the parts that are missing, and what makes up the mixture."""

import json
from dataclasses import replace

import pytest
import torch
from small_commands import SHORT, state

from flowrob import zoo
from flowrob.cli import main
from flowrob.cli.recipes import LADDERS, PHOTOS, RECIPES

PARTS = ["tiny-clean", "tiny-eps1", "tiny-eps2", "tiny-eps4", "tiny-adversarial"]


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    few = replace(PHOTOS, train=("train", (0, 32)), tune=None, report=("test", (0, 4)))
    for name in (name for name in RECIPES if name.startswith("tiny-")):
        monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], images=few))


def ladder(folder, *more):
    return ["train", "--preset", "tiny-ladder", "--output", str(folder / "l.json"), *SHORT, *more]


def test_a_ladder_is_its_parts_at_rising_radii():
    assert list(LADDERS["tiny-ladder"].values()) == PARTS
    for parts in LADDERS.values():
        losses = [RECIPES[name].loss for name in parts.values()]
        radii = [loss.eps if loss.share else 0.0 for loss in losses]
        assert radii == [0, 1, 2, 4, 8] and [*parts] == [f"eps {r:g}" for r in radii]
        assert all(loss.share in (0.0, 1.0) for loss in losses)
        first, *between, last = parts.values()
        assert {RECIPES[name].start for name in between} == {first}
        assert RECIPES[first].start == RECIPES[last].start


def test_training_a_ladder_trains_what_is_missing_and_loads_as_a_mixture(tmp_path, capsys):
    assert main(ladder(tmp_path)) == 0
    assert capsys.readouterr().out.strip().endswith("l.json")
    made = {name: tmp_path / f"{name}.safetensors" for name in (*PARTS, "tiny-base")}
    assert all(path.exists() for path in made.values())
    for name in PARTS:  # each at its own radius
        expected = 0 if name == "tiny-clean" else RECIPES[name].loss.eps
        assert zoo.recipe(made[name])["settings"].get("eps", 0) == expected
    whole = zoo.load(tmp_path / "l.json", "cpu")
    assert whole.names == ("eps 0", "eps 1", "eps 2", "eps 4", "eps 8")
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    parts = torch.stack([zoo.load(made[name], "cpu").log_prob(x) for name in PARTS])
    torch.testing.assert_close(whole.log_prob(x), parts.logsumexp(0) - torch.tensor(5.0).log())
    recipes = zoo.recipe(tmp_path / "l.json")["parts"]
    assert [recipe["preset"] for recipe in recipes.values()] == PARTS
    made["tiny-eps2"].unlink()  # a second run trains this one, and no other
    before = {name: path.stat().st_mtime_ns for name, path in made.items() if path.exists()}
    old = state(made["tiny-eps1"])
    assert main(ladder(tmp_path)) == 0 and made["tiny-eps2"].exists()
    assert before == {name: made[name].stat().st_mtime_ns for name in before}
    assert all(torch.equal(old[key], value) for key, value in state(made["tiny-eps1"]).items())


def test_what_means_nothing_for_a_ladder_is_refused(tmp_path, capsys):
    assert main(ladder(tmp_path, "--json", "r.json")) == 2
    assert "--json means nothing for a ladder" in capsys.readouterr().err
    assert main(ladder(tmp_path, "--set", "eps=4")) == 2
    assert "--set eps: the parts of a ladder differ in it" in capsys.readouterr().err
    wrong = ["train", "--preset", "tiny-ladder", "--output", str(tmp_path / "l.safetensors")]
    assert main(wrong) == 2
    assert "must end in .json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_mixture_on_disk_says_what_is_wrong_with_it(tmp_path):
    flow = RECIPES["tiny-base"].build()
    zoo.save(flow, tmp_path / "a.safetensors", {"seed": 0})
    with pytest.raises(ValueError, match=r"missing: \['b.safetensors'\]"):
        zoo.save_mixture(tmp_path / "m.json", {"a": "a.safetensors", "b": "b.safetensors"})
    with pytest.raises(ValueError, match=r"must end in \.json"):
        zoo.save_mixture(tmp_path / "m.safetensors", {"a": "a.safetensors"})
    path = zoo.save_mixture(tmp_path / "m.json", {"a": "a.safetensors"}, [1.0])
    assert zoo.load(path, "cpu").names == ("a",)
    assert zoo.recipe(path) == {"parts": {"a": {"seed": 0}}}
    path.write_text(json.dumps({"parts": {}}))
    with pytest.raises(ValueError, match=r"was not written by zoo\.save_mixture"):
        zoo.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        zoo.load(path)
