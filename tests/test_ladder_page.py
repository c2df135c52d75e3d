"""The ladder beside its rivals, and cures of a hybrid: the scripts, their records, and the page."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from scripts import ROOT, load_script

from flowrob.cli.recipes import RECIPES
from flowrob.flows import AffineCoupling, glow
from flowrob.training import Loss
from flowrob.training.batches import Batches

SMALL = ("glow", {"image_shape": (3, 8, 8), "num_levels": 2, "num_steps": 1, "width": 4})


@pytest.fixture(scope="module")
def page():
    return load_script("docs/build_ladder.py")


@pytest.fixture(scope="module")
def ladder():
    return load_script("benchmarks/ladder.py")


@pytest.fixture(scope="module")
def cures():
    return load_script("benchmarks/cures.py")


@pytest.fixture
def quick(monkeypatch):
    """The recipes tiny-*, on 8x8 images, for two steps of four images."""
    for name in [name for name in RECIPES if name.startswith("tiny-")]:
        few = replace(RECIPES[name], model=SMALL, num_steps=2, batch_size=4)
        monkeypatch.setitem(RECIPES, name, few)


def shaken(flow, scale=0.1):
    """A flow whose layers all do something."""
    flow.initialize(torch.rand(32, *flow.event_shape, generator=torch.Generator().manual_seed(1)))
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=noise)
    return flow


def test_the_page_is_what_its_generator_makes_of_the_records(page):
    text = (ROOT / "docs/ladder.md").read_text(encoding="utf-8")
    assert text == page.render(), "run python docs/build_ladder.py"
    assert (ROOT / "docs/ladder.png").stat().st_size > 10_000


def test_a_changed_record_changes_the_page(page, tmp_path):
    ladder, cures = (page.record(ROOT / "results", name) for name in ("ladder", "cures"))
    for row in (row for row in ladder["rows"] if row["model"] == "pair"):
        row["rows"][2] |= {"mean": 1.5, "status": "converged"}
    for row in (row for row in cures["rows"] if row["kind"] == "apart"):
        row["rows"][1] |= {"mean": 77.0, "status": ">="}
    for name, content in {"ladder": ladder, "cures": cures}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    text = page.render(tmp_path)
    assert "eps 2: the ladder has" in text and "behind the best of the others, mean of two" in text
    assert ">= 77.00" in text


def test_a_network_that_is_told_k_is_one_density_for_each_k(ladder):
    flow = shaken(glow(*SMALL[1].values()))
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    before = flow.log_prob(x)
    told = ladder.tell(flow, 3)
    nets = [m for m in told.modules() if isinstance(m, ladder.ToldNet)]
    couplings = [m for m in told.modules() if isinstance(m, AffineCoupling)]
    assert len(nets) == len(couplings) == 3  # two steps and a prior: nothing is left out
    assert torch.allclose(ladder.Told(told, 2)(x), before)  # biases begin at zero
    with torch.no_grad():
        for net in nets:
            net.bias += torch.randn(net.bias.shape, generator=torch.Generator().manual_seed(4))
    apart = torch.stack([ladder.Told(told, k)(x) for k in range(3)])
    assert apart.std(0).min() > 1e-3
    each = ladder.Told(told, torch.tensor([0, 1, 2, 1, 0]))(x)
    assert torch.allclose(each, apart[torch.tensor([0, 1, 2, 1, 0]), torch.arange(5)])


def test_wide_networks_have_the_size_they_are_asked_for(ladder):
    known = RECIPES["tiny-base"]
    size = known.build().num_parameters
    for times in (2.5, 5):
        found = ladder.wide(known, times * size).build().num_parameters
        assert abs(found / (times * size) - 1) < 0.02


def test_disguise_is_the_log_posterior_of_being_clean(ladder):
    parts = {str(k): shaken(glow(*SMALL[1].values()), 0.05 * (k + 1)) for k in range(3)}
    whole = ladder.FlowMixture(parts)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = -whole.posterior(x)[:, 0].log()
    assert torch.allclose(ladder.Disguise(whole)(x), expected, atol=1e-2)


def test_an_image_is_always_attacked_or_never(cures):
    flow, loss = shaken(glow(*SMALL[1].values())), Loss.of("hybrid", attack_steps=3)
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    batch = Batches(images, 8, False, 0).draw(0)
    clean, value = flow.bits_per_dim(batch.x), cures.apart(loss)(flow, batch, 0)
    even = batch.indices % 2 == 0
    assert torch.allclose(value[even.sum() :], clean[~even])
    assert (value[: even.sum()] > clean[even] + 1e-3).all()


def test_the_penalty_is_what_the_linear_expansion_misses(cures):
    flow, loss = shaken(glow(*SMALL[1].values())), Loss.of("hybrid", attack_steps=3)
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    batch = Batches(images, 8, False, 0).draw(0)
    none, some, more = (cures.curvature(loss, w)(flow, batch, 0).detach() for w in (0.0, 1.0, 2.0))
    x = batch.x[:4]
    radius = torch.full((4,), 8 / 256)
    moved = loss.perturb(flow, x, radius, 3)
    assert torch.allclose(none, flow.bits_per_dim(torch.cat((moved, batch.x[4:]))))
    small = 1e-3 * (moved - x)
    slope = (flow.bits_per_dim(x + small) - flow.bits_per_dim(x - small)) / 2e-3
    missed = (flow.bits_per_dim(moved) - flow.bits_per_dim(x) - slope).abs()
    assert torch.allclose((some - none)[:4], missed, atol=2e-3) and missed.max() > 0.01
    assert torch.allclose(more - none, 2 * (some - none), atol=1e-5)
    assert (some - none)[4:].abs().max() == 0


def run_script(script, monkeypatch, path, *more):
    short = ["--limit", "2", "--max-steps", "1", "--folder", str(path.parent / "weights")]
    monkeypatch.setattr(sys, "argv", ["script.py", *short, "--json", str(path), *more])
    monkeypatch.setattr(script.torch, "set_num_threads", lambda number: None)
    script.main()
    return json.loads(path.read_text())


def test_the_script_of_cures_goes_on_where_it_stopped(quick, cures, monkeypatch, tmp_path):
    path = tmp_path / "cures.json"
    first = run_script(cures, monkeypatch, path, "--seeds", "0")["rows"]
    kinds = [row["kind"] for row in first]
    assert kinds == [*cures.kinds()] and len(kinds) == 6
    both = run_script(cures, monkeypatch, path, "--seeds", "0", "1")["rows"]
    assert both[:6] == first and [row["kind"] for row in both[6:]] == kinds
    assert both[6]["rows"] != first[0]["rows"]  # other first weights, and other batches
    with pytest.raises(SystemExit, match="holds other settings"):
        run_script(cures, monkeypatch, path, "--limit", "1")


def test_the_script_of_the_ladder_measures_every_density(quick, ladder, monkeypatch, tmp_path):
    path = tmp_path / "ladder.json"
    monkeypatch.setattr(ladder, "EPS", (8,))
    first = run_script(ladder, monkeypatch, path, "--seeds", "0")
    models = [row["model"] for row in first["rows"]]
    assert models == [*ladder.SINGLE, "ladder", "pair", "told k"]
    row = first["rows"][models.index("ladder")]
    parts = [r["parameters"] for r in first["rows"] if r["model"] in ("clean", "adversarial")]
    assert row["parameters"] == 5 * parts[0] == 5 * parts[1]
    assert all(r["mean"] <= b + 0.2 for r, b in zip(row["rows"], row["bound"], strict=True))
    found = first["posterior"]["tiny-ladder"]
    assert {line["move"] for line in found} == {"noise", "attack", "disguise", "sly"}
    assert all(abs(sum(line["mean"]) - 1) < 1e-3 for line in found)
    again = run_script(ladder, monkeypatch, path, "--seeds", "0")
    assert again["rows"] == first["rows"] and again["posterior"] == first["posterior"]
