"""flowrob train: runs that do what their recipe says, and leave a record of themselves."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch
from small_commands import SHORT, by_hand, state, tiny

from flowrob import zoo
from flowrob.cli import commands, main
from flowrob.cli.recipes import OPTIONS, RECIPES, Recipe
from flowrob.cli.runs import Files, Run
from flowrob.data import load
from flowrob.training import Validation, checkpoints


def test_a_run_leaves_weights_and_a_record_that_says_how_they_were_made(trained):
    record = json.loads((trained / "r.json").read_text(), parse_constant=pytest.fail)
    assert record["command"].startswith("python -m flowrob train --preset tiny-hybrid --output")
    assert str(trained) not in (trained / "r.json").read_text()
    assert record["seed"] == 0 and record["versions"]["torch"] == torch.__version__
    assert record["data"]["train"] == "photos, train 0..63"
    assert record["data"]["report"] == "photos, test 0..5" and record["data"]["tune"] is None
    assert record["num_images"] == 64 and len(record["loss"]) == 4
    assert 0 < record["training_seconds"] <= record["duration_s"]
    assert record["settings"]["loss"] == "hybrid" and record["settings"]["num_steps"] == 4
    assert set(record["settings"]) == set(OPTIONS)
    rows = {(row["row"], row["eps"]): row["mean"] for row in record["rows"]}
    assert rows["attacked", 8] > rows["clean", 0] + 0.1
    recipe = zoo.recipe(trained / "w.safetensors")
    assert recipe["command"] == record["command"] and recipe["preset"] == "tiny-hybrid"


def test_the_run_is_fit_with_the_settings_of_the_recipe_and_of_its_base(trained):
    expected = by_hand("tiny-hybrid", load("photos", size=16, indices=slice(0, 64)))
    stored = state(trained / "w.safetensors")
    assert all(torch.equal(value.cpu(), stored[key]) for key, value in expected.items())
    record = json.loads((trained / "r.json").read_text())
    assert record["start"] == "tiny-base.safetensors"
    base = zoo.recipe(trained / "tiny-base.safetensors")
    assert base["settings"]["loss"] == "clean" and record["start_recipe"] == base
    assert (trained / "tiny-base.checkpoint.safetensors").exists()


def test_a_seed_draws_the_first_weights_and_the_batches(trained, tmp_path):
    assert main(tiny("tiny-clean", tmp_path, "--seed", "1")) == 0
    images = load("photos", size=16, indices=slice(0, 64))
    expected, stored = by_hand("tiny-clean", images, seed=1), state(tmp_path / "w.safetensors")
    assert all(torch.equal(value.cpu(), stored[key]) for key, value in expected.items())
    drawn = (RECIPES["tiny-base"].build(torch.Generator().manual_seed(n)) for n in (0, 1))
    first, second = (dict(flow.named_parameters()) for flow in drawn)
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_a_checkpoint_is_taken_up_again_and_belongs_to_its_settings(trained, tmp_path, capsys):
    before = (trained / "run.safetensors").read_bytes()
    again = tiny("tiny-hybrid", trained, "--output", str(tmp_path / "w.safetensors"))
    assert main(again) == 0
    assert (trained / "run.safetensors").read_bytes() == before  # nothing was left to do
    first, second = state(trained / "w.safetensors"), state(tmp_path / "w.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert main([*again, "--seed", "1"]) == 2
    assert "belongs to another run" in capsys.readouterr().err


def test_a_warm_start_begins_where_the_other_model_ended(trained, tmp_path):
    options = ["--start", str(trained / "w.safetensors"), "--set", "learning_rate=0"]
    (tmp_path / "deep").mkdir()
    assert main(tiny("tiny-clean", tmp_path / "deep", *options)) == 0
    first, second = state(trained / "w.safetensors"), state(tmp_path / "deep" / "w.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)
    record = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert record["start"] == "w.safetensors"
    assert [row["row"] for row in record["rows"]] == ["clean"]  # a clean run is not attacked


def test_images_of_ones_own_with_ranges_and_early_best(tmp_path):
    images = load("photos", size=16, limit=48)
    np.savez(tmp_path / "mine.npz", images=images.permute(0, 2, 3, 1).numpy())
    own = ["--data", str(tmp_path / "mine.npz"), "--train", "0:32", "--tune", "32:40"]
    own += ["--report", "40:48", "--set", "keep_best=true", "--set", "validate_every=2"]
    assert main(tiny("tiny-clean", tmp_path, *own)) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["data"] == {
        "train": "mine.npz, images 0..31",
        "tune": "mine.npz, images 32..39",
        "report": "mine.npz, images 40..47",
    }
    assert record["scored_on"] == "tune: mine.npz, images 32..39"
    assert [step for step, _ in record["validation"]] == [2, 4]
    choosing = Validation(images[32:40], every=2, keep_best=True)
    expected = by_hand("tiny-clean", images[:32], choosing)
    stored = state(tmp_path / "w.safetensors")
    assert all(torch.equal(value.cpu(), stored[key]) for key, value in expected.items())


def test_without_images_to_tune_on_the_last_weights_are_kept_and_the_record_says_so(
    trained, tmp_path, capsys
):
    start = ["--start", str(trained / "w.safetensors"), "--set", "keep_best=true"]
    assert main(tiny("tiny-clean", tmp_path, *start)) == 0
    assert "no images to tune on: the last weights are kept" in capsys.readouterr().err
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["settings"]["keep_best"] is False and record["validation"] == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "mine.npz", "--train", "0:32"], "--data 'mine.npz': neither photos, cifar10,"),
        (["--data", "no-such-set", "--train", "0:9", "--report", "0:9"], r"no-such-set"),
        (["--output", "weights.pt"], r"--output must end in .safetensors, got 'weights.pt'"),
        (["--set", "batch_size=9000"], r"batch_size=9000 images, got 64"),
        (["--set", "batch_size=0"], r"batch_size must be at least 1, got 0"),
        (["--set", "optimizer=sgd"], r"optimizer must be one of"),
        (["--set", "loss=robust"], r"loss must be one of"),
        (["--set", "explode_above=1"], r"explode_above must be greater than 1, got 1"),
        (["--start", "no-such-model"], r"no model 'no-such-model'"),
        (["--model", "glow-9"], r"no published size 'glow-9'"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(arguments, message, tmp_path, capsys):
    base = ["train", "--preset", "tiny-clean", *SHORT, "--output", str(tmp_path / "w.safetensors")]
    ranges = [] if "--data" in arguments else ["--train", "0:64"]
    assert main([*base, *ranges, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--set", "steps=3"], "'steps': choose one of num_steps"),
        (["--set", "adversarial_share=0.5"], "'adversarial_share': choose one of num_steps"),
        (["--train", "9:3"], "'9:3' is no range"),
    ],
)
def test_options_that_do_not_exist_are_refused_at_once(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--preset", "tiny-clean", *arguments])
    assert message in capsys.readouterr().err


def test_commands_hand_on_what_cannot_change_and_leave_their_arguments_alone(monkeypatch, tmp_path):
    calls, kept = [], []
    whole = commands._parser

    def spied():
        parser = whole()
        parse = parser.parse_args

        def parse_args(argv):
            given = parse(argv)
            kept.append((given, {k: str(v) for k, v in vars(given).items()}))
            return given

        parser.parse_args = parse_args
        return parser

    def train_recipe(name, recipe, files, run, **other):
        calls.append((name, recipe, files, run))

    monkeypatch.setattr(commands, "_parser", spied)
    monkeypatch.setattr(commands, "train_recipe", train_recipe)  # says None: interrupted
    assert main(tiny("tiny-hybrid", tmp_path, "--data", "x.npz")) == 130
    assert main(["table", "tiny", "--folder", str(tmp_path), "--quiet"]) == 130
    assert [name for name, *_ in calls] == ["tiny-hybrid", "tiny-clean"]
    for given, before in kept:
        assert {k: str(v) for k, v in vars(given).items()} == before
    for _, *frozen in calls:
        assert [type(one) for one in frozen] == [Recipe, Files, Run]
        for one in frozen:
            with pytest.raises(FrozenInstanceError):
                setattr(one, fields(one)[0].name, None)
    assert RECIPES["tiny-hybrid"].images.data == "photos"  # as it was


def test_commands_are_recorded_without_folders():
    words = ["table", "1", "--data", "celeba=/some/where/faces.npz", "--folder", "a/b"]
    expected = "python -m flowrob table 1 --data celeba=faces.npz --folder b"
    assert Run.begin(words, seed=0, quiet=True).command == expected


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    many = ["--set", "num_steps=100000", "--set", "checkpoint_every=1"]
    words = [sys.executable, "-m", "flowrob", *tiny("tiny-base", tmp_path, *many)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    path, deadline = tmp_path / "run.safetensors", time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "steps; saved in " in error and "the same command goes on" in error
    reached = int(checkpoints.read(path)[0]["step"])
    assert f"interrupted after {reached} steps" in error
    assert not (tmp_path / "w.safetensors").exists() and not (tmp_path / "r.json").exists()
