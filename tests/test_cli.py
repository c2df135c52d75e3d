"""python -m flowrob: presets that mean what they say, runs that leave a record of themselves."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from flowrob import checkpoints, flows, reproduce, zoo
from flowrob.__main__ import main
from flowrob.data import SPLITS, load
from flowrob.ensemble import strongest_table
from flowrob.evaluation import robustness_table
from flowrob.objectives import mixture, rebased
from flowrob.presets import PRESETS, TABLES, USES, Plan
from flowrob.runs import FIT_OPTIONS, all_settings, command_line
from flowrob.training import fit

SHORT = ["--set", "num_steps=4", "--set", "batch_size=16", "--set", "attack_steps=1", "--quiet"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the weights and the record of a tiny hybrid run."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(tiny("tiny-hybrid", folder)) == 0
    return folder


def tiny(preset, folder, *more):
    files = ["--output", str(folder / "w.safetensors"), "--json", str(folder / "r.json")]
    run = ["--checkpoint", str(folder / "run.safetensors"), "--train", "0:64", "--report", "0:6"]
    return ["train", "--preset", preset, *files, *run, *SHORT, *more]


def state(path):
    return zoo.load(path, "cpu").state_dict()


def by_hand(preset, images, **more):
    """The flow of a preset: its base, then what goes on from it."""
    builder, arguments = PRESETS[preset]["model"]
    flow = getattr(flows, builder)(**arguments)
    for name in (PRESETS[preset]["start"], preset):
        fit(flow, images, **{**PRESETS[name]["fit"], **more}, progress=False)
    return flow.state_dict()


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
    assert set(record["settings"]) == set(FIT_OPTIONS)
    rows = {(row["row"], row["eps"]): row["mean"] for row in record["rows"]}
    assert rows["attacked", 8] > rows["clean", 0] + 0.1
    recipe = zoo.recipe(trained / "w.safetensors")
    assert recipe["command"] == record["command"] and recipe["preset"] == "tiny-hybrid"


def test_the_run_is_fit_with_the_settings_of_the_preset_and_of_its_base(trained):
    images = load("photos", size=16, indices=slice(0, 64))
    expected = by_hand("tiny-hybrid", images, num_steps=4, batch_size=16, attack_steps=1)
    stored = state(trained / "w.safetensors")
    assert all(torch.equal(value.cpu(), stored[key]) for key, value in expected.items())
    record = json.loads((trained / "r.json").read_text())
    assert record["start"] == "tiny-base.safetensors"
    base = zoo.recipe(trained / "tiny-base.safetensors")
    assert base["settings"]["loss"] == "clean" and record["start_recipe"] == base
    assert (trained / "tiny-base.checkpoint.safetensors").exists()


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
    options = {"num_steps": 4, "batch_size": 16, "validate_every": 2, "keep_best": True}
    expected = by_hand("tiny-clean", images[:32], validation=images[32:40], **options)
    stored = state(tmp_path / "w.safetensors")
    assert all(torch.equal(value.cpu(), stored[key]) for key, value in expected.items())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "mine.npz", "--train", "0:32"], r"say which images to report on, --report A:B"),
        (["--data", "no-such-set", "--train", "0:9", "--report", "0:9"], r"no-such-set"),
        (["--output", "weights.pt"], r"--output must end in .safetensors, got 'weights.pt'"),
        (["--set", "batch_size=9000"], r"batch_size=9000 images, got 64"),
        (["--start", "no-such-model"], r"no model 'no-such-model'"),
        (["--model", "glow-9"], r"no preset 'glow-9'"),
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
        (["--set", "steps=3"], "'steps': choose one of loss"),
        (["--train", "9:3"], "'9:3' is no range"),
    ],
)
def test_options_that_do_not_exist_are_refused_at_once(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--preset", "tiny-clean", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", zoo.names())
def test_presets_repeat_the_recipe_of_the_weights_that_ship(name):
    preset, recipe = PRESETS[name], zoo.recipe(name)
    stored = recipe["settings"]
    asked = all_settings(preset["fit"])
    unused = {"eps", "eps_warmup_steps", "attack_steps"} if asked["loss"] == "clean" else set()
    for option in {*asked} & {*stored} - unused:
        assert asked[option] == stored[option], option
    assert stored["loss"] == asked["loss"] and "num_steps" in stored
    builder, arguments = preset["model"]
    shipped = zoo.load(name, "cpu").config
    assert json.loads(json.dumps(getattr(flows, builder)(**arguments).config)) == shipped
    for use in USES:
        if preset[use] is None:
            assert recipe["data"][use] is None
            continue
        split, limits = preset[use]
        if limits is None:
            assert recipe["data"][use] == f"{preset['data']}, {split} all"
        else:  # made from a file with the same images, which has no splits
            assert recipe["data"][use].endswith(f" {limits[0]}..{limits[1] - 1}")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete(name):
    preset = PRESETS[name]
    assert set(preset["fit"]) <= set(FIT_OPTIONS)
    assert callable(getattr(flows, preset["model"][0]))
    assert preset["train"] and preset["report"]
    used = [preset[use] for use in USES if preset[use]]
    assert all(split in SPLITS[preset["data"]] for split, _ in used)
    loss = preset["fit"].get("loss", "clean")
    assert name.endswith(("clean", "base", "adam") if loss == "clean" else loss)
    if "start" in preset:  # the same model and images, trained clean
        base = PRESETS[preset["start"]]
        assert base["fit"].get("loss", "clean") == "clean" and "start" not in base
        assert {k: base[k] for k in ("model", "data", *USES)} == {
            k: preset[k] for k in ("model", "data", *USES)
        }


@pytest.mark.parametrize(
    "data, ranges",
    [
        ("cifar10", [(0, 3200), (3200, 3400), (3400, 3600)]),
        ("celeba", [(0, 9000), (9000, 9250), (9250, 9500)]),
    ],
)
def test_ranges_of_the_real_sets(data, ranges):
    found = [p for n, p in PRESETS.items() if p["data"] == data and not n.startswith("paper-")]
    assert len(found) >= 3
    for preset in found:
        assert [preset[use] for use in USES] == [("train", limits) for limits in ranges]
        assert preset["fit"]["keep_best"]


@pytest.mark.parametrize("key", TABLES)
def test_a_row_has_one_budget_and_what_is_not_loss_is_alike(key):
    plan = TABLES[key]
    assert all(name in PRESETS for name in plan.models)
    if not plan.robust:
        return
    fits = [PRESETS[name]["fit"] for name in plan.models]
    assert [fit.get("loss", "clean") for fit in fits] == ["clean", "adversarial", "hybrid"]
    assert len({PRESETS[name]["start"] for name in plan.models}) == 1
    attacks = {"loss", "adversarial_share", "random_eps", "eps_warmup_steps", "attack_steps"}
    attacks |= {"attack_visits", "reuse_perturbations"}
    shared = [{k: v for k, v in fit.items() if k not in attacks} for fit in fits]
    assert shared[0] == shared[1] == shared[2] and "num_steps" in shared[0]


@pytest.fixture
def small_table(monkeypatch):
    plan = Plan("A table", TABLES["tiny", "laptop"].models, eps=(0, 8), steps=(2,))
    monkeypatch.setitem(TABLES, ("tiny", "laptop"), plan)
    monkeypatch.setattr(reproduce, "NUM_TUNED", 8)
    bases = {
        "clean, wider base": ("scale", (1.0, 3.0)),
        "clean, Student-t base": ("degrees", (1.0, 5.0)),
    }
    monkeypatch.setattr(reproduce, "BASES", bases)


def table(folder, *more):
    return ["table", "tiny", "--folder", str(folder), "--limit", "4", *SHORT, *more]


def test_table_trains_attacks_and_records(small_table, tmp_path, capsys):
    assert main(table(tmp_path)) == 0
    record = json.loads(
        (tmp_path / "table-tiny-laptop.json").read_text(), parse_constant=pytest.fail
    )
    printed = capsys.readouterr().out
    assert printed.endswith(reproduce.layout(record) + "\n") and "A table" in printed
    assert record["command"].startswith("python -m flowrob table tiny --folder")
    assert os.sep not in record["command"] and record["duration_s"] > 0
    names = ["tiny-clean", "tiny-adversarial", "tiny-hybrid"]
    assert record["models"] == names
    assert set(record["training_seconds"]) == {*names, "tiny-base"}
    flow = {name.split("-")[1]: zoo.load(tmp_path / f"{name}.safetensors", "cpu") for name in names}
    chosen = record["baselines"]
    for name, parameter in {
        "clean, wider base": "scale",
        "clean, Student-t base": "degrees",
    }.items():
        best = min(chosen[name]["tried"], key=lambda entry: entry["half and half"])
        assert chosen[name][parameter] == best[parameter] and chosen[name]["num_images"] == 8
    models = {name: f.log_prob for name, f in flow.items()} | {
        "clean, wider base": rebased(flow["clean"], scale=chosen["clean, wider base"]["scale"]),
        "clean, Student-t base": rebased(
            flow["clean"], degrees=chosen["clean, Student-t base"]["degrees"]
        ),
        "mixture": mixture(flow["clean"].log_prob, flow["adversarial"].log_prob),
    }
    images = load("photos", split="test", size=16, limit=4)
    attacks = TABLES["tiny", "laptop"].attacks
    assert set(attacks) == {"pgd-2", "auto-pgd-2"}
    generator = torch.Generator().manual_seed(0)
    expected = strongest_table(models, images, [0, 8], generator=generator, attacks=attacks)
    assert record["rows"] == json.loads(expected.to_json())["rows"]
    # a second run trains nothing, and the same numbers come out
    before = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert main(table(tmp_path, "--json", str(tmp_path / "again.json"))) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["rows"] == record["rows"]
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}


def test_tables_of_single_models_go_over_iterations(monkeypatch, tmp_path, capsys):
    plan = Plan("Iterations", ("tiny-clean", "tiny-hybrid"), eps=(0, 8), steps=(1, 3), auto=False)
    monkeypatch.setitem(TABLES, ("tiny", "laptop"), plan)
    assert main(table(tmp_path)) == 0
    record = json.loads((tmp_path / "table-tiny-laptop.json").read_text())
    assert [row["row"] for row in record["rows"][:4]] == ["clean", "pgd-1", "pgd-3", "strongest"]
    assert record["settings"]["num_images"] == {"tiny-clean": 4, "tiny-hybrid": 4}
    assert "| tiny-hybrid | pgd-3 |" in capsys.readouterr().out


def test_shipped_weights_are_attacked_without_training(monkeypatch, tmp_path):
    names = ("glow-photos-clean", "glow-photos-hybrid")
    plan = Plan("Shipped", names, eps=(0, 8), steps=(1,), auto=False)
    monkeypatch.setitem(TABLES, ("tiny", "laptop"), plan)
    assert main(table(tmp_path, "--shipped")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["table-tiny-laptop.json"]
    record = json.loads((tmp_path / "table-tiny-laptop.json").read_text())
    images = load("photos", split="test", limit=4)
    for name in names:
        expected = strongest_table(
            {name: zoo.load(name, "cpu").log_prob},
            images,
            plan.eps,
            generator=torch.Generator().manual_seed(0),
            attacks=plan.attacks,
        )
        rows = [row for row in record["rows"] if row["model"] == name]
        assert rows == json.loads(expected.to_json())["rows"]
        assert record["training_seconds"][name] == zoo.recipe(name)["training_seconds"]


def test_table_takes_images_from_elsewhere_and_refuses_what_it_does_not_know(tmp_path, capsys):
    images = load("photos", size=16, limit=16)
    np.savez(tmp_path / "c.npz", images=images.permute(0, 2, 3, 1).numpy())
    command = ["table", "1", "--folder", str(tmp_path), "--quiet"]
    assert main([*command, "--data", f"cifar10={tmp_path / 'c.npz'}"]) == 2
    assert "indices=slice(0, 3200, None) reaches beyond the 16" in capsys.readouterr().err
    for wrong in ("c.npz", "mnist=c.npz", "cifar10="):
        with pytest.raises(SystemExit, match="2"):
            main([*command, "--data", wrong])
        assert "write SET=PATH" in capsys.readouterr().err
    assert main(["table", "photos", "--scale", "paper"]) == 2
    assert "no table photos --scale paper: one of 1 --scale laptop" in capsys.readouterr().err


def test_download_is_passed_on_and_never_done_unasked(tmp_path, monkeypatch, capsys):
    from flowrob import data

    asked = []

    def load(name, **options):
        asked.append((name, options["download"]))
        raise OSError("no network")

    monkeypatch.setattr(data, "load", load)
    command = ["table", "1", "--folder", str(tmp_path), "--quiet"]
    assert main(command) == 2 and main([*command, "--download"]) == 2
    assert main(["train", "--preset", "glow-cifar10-base", "--download"]) == 2
    assert asked == [("cifar10", False), ("cifar10", True), ("cifar10", True)]
    assert "no network" in capsys.readouterr().err


def test_commands_are_recorded_without_folders():
    words = ["table", "1", "--data", "celeba=/some/where/faces.npz", "--folder", "a/b"]
    expected = "python -m flowrob table 1 --data celeba=faces.npz --folder b"
    assert command_line(words) == expected


def test_layout_puts_the_papers_table_1_above_ours():
    rows = [
        {"model": "clean", "eps": e, "row": r, "mean": e + 3.5, "median": "inf"}
        for e, r in [(0, "clean"), (8, "pgd-20"), (8, "strongest")]
    ]
    text = reproduce.layout({"table": "1", "title": "T", "rows": rows})
    assert "| paper: clean | PGD | 3.40 | 2,000,000 |" in text
    assert "| clean | strongest | 3.50 / inf | 11.50 / inf |" in text
    assert "paper" not in reproduce.layout({"table": "2", "title": "T", "rows": rows})


def attack(folder, *more):
    model = str(folder / "w.safetensors")
    options = ["--eps", "4", "--limit", "3", "--steps", "2", "--quiet", "--seed", "5"]
    return ["attack", model, *options, *more]


def test_attack_prints_the_table_of_the_reporting_images(trained, tmp_path, capsys):
    assert main(attack(trained, "--json", str(tmp_path / "new" / "a.json"))) == 0
    flow = zoo.load(trained / "w.safetensors")
    images = load("photos", split="test", size=16, limit=3)
    table = robustness_table(
        flow.log_prob,
        images.to(next(flow.parameters()).device),
        [4],
        generator=torch.Generator().manual_seed(5),
        attack_options={"num_steps": 2, "restarts": 1},
    )
    assert capsys.readouterr().out == table.to_markdown() + "\n"
    record = json.loads((tmp_path / "new" / "a.json").read_text(), parse_constant=pytest.fail)
    assert record["rows"] == json.loads(table.to_json())["rows"]
    assert record["data"] == "photos, test all" and record["settings"]["num_images"] == 3
    assert record["command"].startswith("python -m flowrob attack w.safetensors --eps 4")


def test_two_processes_print_one_and_the_same_table(trained, capsys):
    assert main(attack(trained)) == 0
    alone = capsys.readouterr().out
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "flowrob"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launch, *attack(trained)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == alone  # printed to two decimals


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    many = ["--set", "num_steps=100000", "--set", "checkpoint_every=1"]
    command = [sys.executable, "-m", "flowrob", *tiny("tiny-base", tmp_path, *many)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
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


def test_models_lists_all_that_ship_with_their_recipes(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    for name in zoo.names():
        assert f"{name}\n  Flow on " in printed
        assert f"  command: {zoo.recipe(name)['command']}" in printed
