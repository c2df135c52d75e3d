"""The record of noise, raised noise and other sets under the clean models, and its script."""

import json
import statistics
import sys

import pytest
import torch
from scripts import ROOT, load_script

from flowrob import data, paper


@pytest.fixture(scope="module")
def script():
    return load_script("benchmarks/out_of_distribution.py")


@pytest.fixture
def run():
    return json.loads((ROOT / "results/out_of_distribution.json").read_text(encoding="utf-8"))


def test_it_was_measured_on_the_weights_that_ship(script, run):
    assert "/" not in run["command"].replace("benchmarks/", "")
    asked = [(name, kind, eps) for name in script.MODELS
             for kind in script.KINDS[name.split("-")[0]] for eps in paper.WIDE_EPS]  # fmt: skip
    asked += [(name, other, 0) for name in script.MODELS for other in (*script.SETS, "plain")]
    assert sorted((r["model"], r["what"], r["eps"]) for r in run["rows"]) == sorted(asked)
    for row in run["rows"]:
        assert row["weights"] == script.fingerprint(row["model"]), f"run {script.__file__} again"
        wanted = run["settings"]["limit" if row["what"] in script.KINDS["glow"] else "others"]
        assert len(row["bits"]) == wanted


def test_raised_noise_gets_likelier_with_eps_and_stays_above_images(run):
    middle = {(r["model"], r["what"], r["eps"]): statistics.median(r["bits"]) for r in run["rows"]}
    for (model, what, eps), value in middle.items():
        if what == "raised" and eps:
            assert value < middle[model, what, {1: 0}.get(eps, eps // 2)]
            assert value > 2 * middle[model, model.split("-")[1], 0]


def test_it_raises_lowers_and_goes_on_where_it_stopped(script, tmp_path, monkeypatch, capsys):
    record = tmp_path / "noise.json"
    monkeypatch.setattr(script, "MODELS", ("glow-photos-clean",))
    monkeypatch.setattr(script, "WIDE_EPS", (0, 2))
    monkeypatch.setattr(script, "STEPS", 2)
    monkeypatch.setattr(script.torch, "set_num_threads", lambda number: None)
    words = "out_of_distribution.py --limit 2 --others 2 --json"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(record)])
    script.main()
    first = json.loads(record.read_text())
    bits = {(r["what"], r["eps"]): torch.tensor(r["bits"]).double() for r in first["rows"]}
    assert (bits["raised", 2] < bits["raised", 0]).all()
    assert (bits["attacked", 2] > bits["noise", 2]).all()
    assert (bits["noise", 0] == bits["photos", 0]).all()  # as they are
    assert {what for what, _ in bits} == {"raised", "noise", "attacked", "photos", "plain"}
    first["rows"][0] |= {"bits": [-1.0, -1.0]}
    first["rows"][1] |= {"bits": [-1.0, -1.0], "weights": "others"}
    record.write_text(json.dumps(first))
    capsys.readouterr()
    script.main()
    again = {(r["what"], r["eps"]): r["bits"] for r in json.loads(record.read_text())["rows"]}
    assert again["raised", 0] == [-1.0, -1.0]
    assert again["raised", 2] == pytest.approx(bits["raised", 2].tolist(), rel=1e-6)
    assert len(capsys.readouterr().out.splitlines()) == 3  # the head, and what was repeated


def test_plain_images_have_one_colour_each(script, tmp_path):
    flow = script.zoo.load("glow-photos-clean", "cpu")
    found = script.others({}, flow, 3, 0)
    assert {*found} == {"photos", "plain"}
    assert torch.equal(found["photos"], data.load("photos", split="test", limit=3))
    plain = found["plain"]
    assert plain.dtype == torch.uint8 and plain.shape == (3, 3, 32, 32)
    assert (plain == plain[:, :, :1, :1]).all() and not torch.equal(plain[0], plain[1])
