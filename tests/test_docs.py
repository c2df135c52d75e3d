"""docs/benchmarks.md: the file is what its generator makes of results/, and the scripts run."""

import itertools
import json
import re
import shutil
import sys

import pytest
import torch
from scripts import ROOT, load_script

benchmarks = load_script("docs/build_benchmarks.py")

PUBLISHED = ROOT / "docs/benchmarks.md"
MEASURED = [name for name in benchmarks.SECTIONS if (ROOT / f"results/{name}.json").exists()]


def test_the_published_file_is_what_the_generator_writes():
    assert PUBLISHED.read_text(encoding="utf-8") == benchmarks.render(), (
        "run python docs/build_benchmarks.py"
    )


def test_every_section_is_there_and_a_missing_result_names_its_command(tmp_path):
    text = benchmarks.render(tmp_path)
    for title, _, command in benchmarks.SECTIONS.values():
        assert f"## {title}\n" in text and f"`{command}`" in text
        assert (ROOT / command.split()[1]).exists()


@pytest.mark.parametrize("name", MEASURED)
def test_each_result_says_how_it_was_made(name):
    run = json.loads((ROOT / f"results/{name}.json").read_text(encoding="utf-8"))
    assert run["command"].startswith(f"python benchmarks/{name.removesuffix('_small')}.py")
    assert "/tmp" not in run["command"] and run["duration_s"] > 0
    assert run["versions"]["torch"] and len(run["date"].split("-")) == 3
    assert benchmarks.provenance(run) in PUBLISHED.read_text(encoding="utf-8")


def test_a_changed_result_changes_the_file(tmp_path):
    shutil.copy(ROOT / "results/attack_libraries.json", tmp_path)
    path = tmp_path / "attack_libraries.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    row = next(row for row in run["rows"] if row["way"] == "`lower_likelihood`")
    row["results"]["8"]["mean"] = 1234.567
    path.write_text(json.dumps(run), encoding="utf-8")
    assert "1,234.57" in benchmarks.render(tmp_path)


def test_speed_is_shown_with_its_ratio():
    alone = {"forward": 10.0, "attack": 20.0, "training": 40.0}
    ours = {"forward": 15.0, "attack": 30.0, "training": 50.0}
    run = {
        "settings": {"threads": 1, "batch": 64, "rounds": 3},
        "milliseconds": {"its convolutions alone": alone, "flowrob": ours},
    }
    assert "| flowrob | 15 ms (1.50x) | 30 ms (1.50x) | 50 ms (1.25x) |" in (
        benchmarks.section_glow(run)
    )


def test_the_worst_case_table_is_that_of_its_script():
    row = {
        "n": 10,
        "points": 100,
        "floor": 1.0,
        "ours": 2.0,
        "find_root": 3.0,
        "find_root_drop": [-1e-12, 1e-12],
    }
    assert "| 10 | 100 | 1 | 2 | 2.00 | 3 |" in benchmarks.section_worst_case({"results": [row]})


def test_the_libraries_script_runs_where_none_is_installed(tmp_path, monkeypatch):
    import attack_libraries as script

    path = tmp_path / "attack_libraries.json"
    threads = str(torch.get_num_threads())
    arguments = ["--num", "1", "--steps", "2", "--threads", threads, "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["attack_libraries.py", *arguments])
    monkeypatch.setattr(script, "find_spec", lambda name: name == "flowrob" or None)
    script.main()
    rows = {row["library"]: row for row in json.loads(path.read_text())["rows"]}
    for library in ("foolbox", "torchattacks", "art", "autoattack"):
        assert rows[library]["outcome"] == "not installed"
    assert "Not installed in this run: foolbox, torchattacks, art, autoattack" in (
        benchmarks.render(tmp_path)
    )


def test_an_attack_that_goes_nowhere_or_raises_is_reported_as_such():
    import attack_libraries as script

    x = torch.full((2, 3), 0.5)
    flow = torch.nn.Module()
    flow.log_prob = lambda x: -x.sum(1)

    def measure(attack):
        return script.attempt(attack, flow, x, 4, lambda points: 8 + points.double().sum(1))

    stays = measure(lambda flow: x.clone())
    assert script.outcome({"4": stays}) == "returns the clean image, said nothing"

    def climbs(flow):
        at = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(-flow.log_prob(at).sum(), at)
        return x + gradient.sign() * 8 / 256

    moved = measure(climbs)
    assert (moved["gradients"], moved["live_gradients"]) == (1, 1)
    assert moved["moved"] == pytest.approx(8) and moved["outside_ball"] == pytest.approx(4)
    assert moved["mean"] == pytest.approx(8 + 3 * (0.5 + 8 / 256))

    def fails(flow):
        raise KeyError("no label")

    assert script.outcome({"4": measure(fails)}) == "KeyError: 'no label'"


def test_robustness_is_what_its_generator_makes_of_the_results(tmp_path):
    robustness = load_script("docs/build_robustness.py")
    published = (ROOT / "docs/robustness.md").read_text(encoding="utf-8")
    assert published == robustness.render(), "run python docs/build_robustness.py"
    run = json.loads((ROOT / "results/attack-glow-photos-clean.json").read_text(encoding="utf-8"))
    run["rows"][1]["mean"] = 1234.5
    (tmp_path / "attack-glow-photos-clean.json").write_text(json.dumps(run), encoding="utf-8")
    assert robustness.render(tmp_path).count("1,234") == 2  # in its table and beside the paper


@pytest.fixture
def long_attacks(tmp_path):
    """A copy of that record beside which others can be put, its path and content."""
    path = tmp_path / "long_attacks.json"
    shutil.copy(ROOT / "results/long_attacks.json", path)
    return path, json.loads(path.read_text(encoding="utf-8"))


def test_long_attacks_were_made_on_the_weights_that_ship(long_attacks):
    import long_attacks as script

    assert "/" not in long_attacks[1]["command"].replace("benchmarks/", "").replace("results/", "")
    rows = long_attacks[1]["rows"]
    steps = long_attacks[1]["settings"]["steps"]
    expected = {(s, loss, n) for s in script.SETS for loss in script.LOSSES for n in steps}
    assert {(row["set"], row["loss"], row["num_steps"]) for row in rows} == expected
    for row in rows:
        name = f"glow-{row['set']}-{row['loss']}"
        assert row["weights"] == script.fingerprint(name), "run benchmarks/long_attacks.py again"


def test_the_section_on_long_attacks_is_computed_from_the_record(long_attacks):
    path, run = long_attacks
    for row in run["rows"]:
        grown = row["loss"] == "hybrid" and row["num_steps"] == max(run["settings"]["steps"])
        row["mean"] = 7.0 if grown else 6.0
    path.write_text(json.dumps(run), encoding="utf-8")
    page = benchmarks.render(path.parent)
    assert "hybrid by 1.00 to 1.00; adversarial by 0.00 to 0.00 bits/dim" in page
    cells = ["6.00"] * (len(run["settings"]["steps"]) - 1) + ["7.00"]
    assert f"| `glow-photos-hybrid` | {' | '.join(cells)} |" in page


def test_the_long_attacks_script_goes_on_where_it_stopped(tmp_path, monkeypatch):
    import long_attacks as script

    path, threads = tmp_path / "long.json", torch.get_num_threads()
    arguments = "--sets photos --steps 1 2 --limit 2 --json"
    monkeypatch.setattr(sys, "argv", ["long_attacks.py", *arguments.split(), str(path)])
    monkeypatch.setattr(script.torch, "set_num_threads", lambda number: None)
    script.main()
    first = json.loads(path.read_text())
    assert [(row["loss"], row["num_steps"]) for row in first["rows"]] == [
        ("hybrid", 1), ("hybrid", 2), ("adversarial", 1), ("adversarial", 2)]  # fmt: skip
    for row in first["rows"]:
        assert 4 < row["mean"] < row["greatest"]  # of two images the median is the mean
        assert row["median"] == pytest.approx(row["mean"], abs=1e-3)
    first["rows"][0] |= {"mean": -1.0}
    first["rows"][1] |= {"mean": -1.0, "weights": "others"}
    path.write_text(json.dumps(first))
    script.main()
    kept = {
        (row["loss"], row["num_steps"]): row["mean"] for row in json.loads(path.read_text())["rows"]
    }
    assert kept["hybrid", 1] == -1 and kept["hybrid", 2] > 4 and len(kept) == 4
    assert torch.get_num_threads() == threads


def test_long_attacks_in_smaller_balls_go_on_too(tmp_path, monkeypatch):
    import long_attacks as script

    path = tmp_path / "long_attacks_small.json"
    arguments = "--sets photos --at eps1:1 hybrid:4 --steps 1 2 --limit 2 --json"
    monkeypatch.setattr(sys, "argv", ["long_attacks.py", *arguments.split(), str(path)])
    monkeypatch.setattr(script.torch, "set_num_threads", lambda number: None)
    script.main()
    run = json.loads(path.read_text())
    made = [(row["loss"], row["eps"], row["num_steps"]) for row in run["rows"]]
    assert made == [("eps1", 1, 1), ("eps1", 1, 2), ("hybrid", 4, 1), ("hybrid", 4, 2)]
    run["rows"][0] |= {"mean": 4.0}
    run["rows"][1] |= {"mean": 4.5}
    path.write_text(json.dumps(run))
    script.main()  # nothing is measured again
    assert "eps1 at 1 by 0.50 to 0.50; hybrid at 4 by" in benchmarks.render(tmp_path)
    for wrong in ("eps1", "eps1:x", "nothing:4"):
        monkeypatch.setattr(sys, "argv", ["long_attacks.py", "--at", wrong])
        with pytest.raises(SystemExit):
            script.main()


def test_the_price_of_convergence_is_counted_alike_for_all(tmp_path, monkeypatch):
    import price as script

    path = tmp_path / "price.json"
    arguments = "--limit 2 --max-steps 2 --json"
    monkeypatch.setattr(sys, "argv", ["price.py", *arguments.split(), str(path)])
    monkeypatch.setattr(script.torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(script, "MODELS", ("glow-photos-hybrid",))
    missing = {"nothing so called, an attack": ("flowrob-nothing", script.alone)}
    ways = {"flowrob, Auto-PGD alone": script.WAYS["flowrob, Auto-PGD alone"]}
    monkeypatch.setattr(script, "WAYS", ways | missing)
    script.main()
    run = json.loads(path.read_text())
    search, alone, absent = run["rows"]
    assert search["status"] == ">=" and search["evaluations"] == 14
    assert [point["gradients"] for point in search["points"]] == [14]
    assert [point["gradients"] for point in alone["points"]] == [14]
    assert search["points"][0]["seconds"] > 0 and absent["missing"] == "flowrob-nothing"
    clean, mean = search["clean"], sum(search["values"]) / 2
    assert 4 < clean < 5 and mean == pytest.approx(search["points"][0]["mean"])
    most = sum(map(max, search["values"], alone["values"])) / 2
    shares = {way: of["shares"] for way, of in script.reached(run["rows"]).items()}
    assert shares["flowrob, search until converged"] == [
        pytest.approx((mean - clean) / (most - clean))
    ]
    assert all(share <= 1 + 1e-9 for of in shares.values() for share in of)
    page = benchmarks.render(tmp_path)
    assert "| nothing so called, an attack | not installed |" in page
    assert "The search says *>=* after 14 gradients per image" in page


def test_a_meter_counts_gradients_of_single_images_and_shifts_units(flow):
    import price as script

    noise = torch.rand(1, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    levels = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    meter = script.Meter(flow, noise).eval()
    x = (levels / 255).requires_grad_()
    value = meter.log_prob(x)
    assert torch.allclose(value, flow.log_prob((levels + noise[0]) / 256), rtol=1e-4)
    value.sum().backward()
    assert meter.rows == 2 and [count for count, _ in meter.log] == [2]
    assert meter.seconds(1) == meter.seconds(2) == meter.log[0][1]


def test_the_parts_of_a_ladder_withstand_long_attacks_and_a_hybrid_does_not():
    """What tables.md says of its searches rests on this record."""
    import long_attacks as script

    run = json.loads((ROOT / "results/long_attacks_small.json").read_text(encoding="utf-8"))
    means: dict[tuple, list[float]] = {}
    for row in run["rows"]:
        assert row["weights"] == script.fingerprint(f"glow-{row['set']}-{row['loss']}")
        means.setdefault((row["set"], row["loss"], row["eps"]), []).append(row["mean"])
    grown = {key: found[-1] - found[0] for key, found in means.items()}
    assert all(more < 0.02 for (_, loss, _), more in grown.items() if loss.startswith("eps"))
    assert max(more for (_, loss, _), more in grown.items() if loss == "hybrid") > 0.1


def test_tables_are_what_their_generator_makes_of_the_results():
    tables = load_script("docs/build_tables.py")
    published = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    assert published == tables.render(), "run python docs/build_tables.py"
    titles = [run["title"] for run in tables.runs()]
    assert [title.split(":")[0] for title in titles] == [
        "Table 1",
        "Beside Table 2",
        "Glow on photographs",
        "Table 3",
    ]


def test_the_readme_shows_table_1_as_it_is():
    tables = load_script("docs/build_tables.py")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == tables.with_table(readme), "run python docs/build_tables.py"
    for row in (
        "paper: hybrid | 3.60",
        "ours, 20 steps: hybrid [*] | ",
        "ours, found: the mix",
    ):
        assert f"| {row}" in readme


def pages(results=ROOT / "results"):
    """The generator, and the two texts of its that show rows of hybrid models."""
    tables = load_script("docs/build_tables.py")
    texts = {"docs/tables.md": tables.render(results), "README.md": tables.short_table(results)}
    return tables, texts


def test_every_row_of_a_hybrid_model_is_marked_as_a_lower_bound():
    tables, texts = pages()
    import table_seeds

    for text in texts.values():
        blocks = text.split("\n\n")
        for block, below in itertools.pairwise(blocks):
            rows = [line.split("|")[1].strip() for line in block.splitlines() if line[:2] == "| "]
            ours = [row for row in rows if "hybrid" in row and not row.startswith("paper: ")]
            assert all(row.endswith(f" {tables.MARK}") for row in ours)
            assert bool(ours) == below.startswith(f"{tables.MARK} A lower bound: ")
    more = sum("paired" in run for run in tables.runs())  # one table more
    more += sum(len(table_seeds.of(run, ROOT / "results")) > 1 for run in tables.runs())
    assert texts["docs/tables.md"].count(f"{tables.MARK} A lower bound: ") == 9 + more


def test_the_note_on_lower_bounds_is_computed_from_the_record(long_attacks):
    path, run = long_attacks
    for name in ("table-1-laptop.json", "table-2-laptop.json", "table-photos-laptop.json"):
        shutil.copy(ROOT / "results" / name, path.parent)
    values = {"cifar10": 111.0, "celeba": 222.0, "photos": 333.0}
    run["settings"]["limit"] = 77
    for row in run["rows"]:
        if row["loss"] == "hybrid" and row["num_steps"] == max(run["settings"]["steps"]):
            row["mean"], row["greatest"] = values[row["set"]], 444.0
    path.write_text(json.dumps(run), encoding="utf-8")
    tables, texts = pages(path.parent)
    for run in tables.runs():
        if value := values.get(tables.SETS.get(run["table"])):
            blocks = texts["docs/tables.md"].count(f"mean: hybrid {value:.2f} (")
            assert blocks == 3 + ("paired" in run)
    for text in texts.values():
        text = " ".join(text.split())
        assert "on the first 77 of these images, mean: hybrid 111.00 (" in text
        assert "The greatest of the hybrid: 444.00." in text


@pytest.mark.parametrize("name", ["README.md", "docs/tables.md", "notebooks/07_hybrid_training.py"])
def test_nothing_says_that_hybrid_training_stopped_hiding(name):
    text = " ".join((ROOT / name).read_text(encoding="utf-8").replace("\n#", "\n").split())
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)  # without the links
    assert "still hides from short attacks" in text and "lower bound" in text
    for claim in ("no longer hides", "does not explode", "nowhere further than"):
        assert claim not in text


def test_a_changed_table_changes_its_page_the_verdicts_and_the_readme(tmp_path, long_attacks):
    tables = load_script("docs/build_tables.py")
    name = "table-1-laptop.json"
    run = json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))
    for row in run["rows"]:
        if (row["model"], row["eps"], row["row"]) == ("hybrid", 4, "strongest"):
            row["mean"] = 0.125
        if (row["model"], row["eps"], row["row"]) == ("adversarial", 8, "pgd-20"):
            row["mean"] = -1.0
    (tmp_path / name).write_text(json.dumps(run), encoding="utf-8")
    page = tables.render(tmp_path)
    assert "Least at eps 4: hybrid [*] (0.12), then" in page
    assert "the mean of the adversarial model falls at eps [8]" in page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    changed = tables.with_table(readme, tmp_path)
    assert changed != readme and "| >= 0.12 |" in changed  # as its search had not converged


@pytest.fixture
def other_seed(tmp_path):
    """Table 1's record, and one as another seed would leave it."""
    run = json.loads((ROOT / "results/table-1-laptop.json").read_text(encoding="utf-8"))
    other = json.loads(json.dumps({**run, "seed": 77}))
    other["rows"] = [row for row in other["rows"] if row["model"] != "clean (published)"]
    for row in other["rows"]:
        row["mean"] += 1.0
    path = tmp_path / "table-1-laptop-seed77.json"
    path.write_text(json.dumps(other), encoding="utf-8")
    return run, other, path


def test_other_seeds_of_a_table_give_means_and_ranges(other_seed):
    seeds = load_script("docs/table_seeds.py")
    run, _, path = other_seed
    models = {row["model"] for row in run["rows"]}
    (row,) = [
        r["mean"] for r in run["rows"] if (r["model"], r["row"], r["eps"]) == ("ladder", "clean", 0)
    ]
    runs = seeds.of(run, path.parent)
    page = seeds.section(run, runs, str)
    (line,) = [line for line in page.splitlines() if line.startswith("| ladder | strongest |")]
    assert f"| {row + 0.5:.2f} ({row:.2f} to {row + 1:.2f}) |" in line and ">=" not in line
    assert "from seeds 0, 77" in page and "| clean (published) |" not in page
    assert "Not trained again: clean (published)." in page  # which one seed has not
    (line,) = [line for line in page.splitlines() if line.startswith("| hybrid | strongest |")]
    assert "| >= " in line
    told = seeds.told(run, runs, {model: model for model in models})
    assert "seeds 0, 77, at eps 8: " in told and "once more" not in page + told
    assert seeds.section(run, [run], str) == "" == seeds.told(run, [run], {})


def test_a_seed_attacked_once_more_stands_for_the_table_among_the_seeds(other_seed):
    seeds = load_script("docs/table_seeds.py")
    run, other, path = other_seed
    again = json.loads(json.dumps(run))
    for row in again["rows"]:
        row["mean"] *= 0.5 if row["model"] == "hybrid" else 2.0
    (path.parent / "table-1-laptop-seed0.json").write_text(json.dumps(again), encoding="utf-8")
    runs = seeds.of(run, path.parent)
    assert runs == [again, other]
    (found,) = [
        r["mean"]
        for r in run["rows"]
        if (r["model"], r["row"], r["eps"]) == ("hybrid", "strongest", 8)
    ]
    less = f"it found less of hybrid {found / 2:.2f}, not {found:.2f}."
    assert less in seeds.section(run, runs, str)
    assert less in seeds.told(run, runs, {model: model for model in seeds.everywhere(runs)})


@pytest.mark.parametrize("key", ["num_images", "budget", "data", "seed"])
def test_seeds_that_were_attacked_in_another_way_are_refused(other_seed, key):
    seeds = load_script("docs/table_seeds.py")
    run, other, path = other_seed
    if key == "data":
        other["data"]["glow-cifar10-clean"]["report"] = "others"
    elif key == "seed":  # which another record has
        (path.parent / "table-1-laptop-seed7.json").write_text(json.dumps(other), encoding="utf-8")
    else:
        other["settings"][key] = None
    path.write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(ValueError, match=path.name):
        seeds.of(run, path.parent)


def test_a_table_says_in_one_run_only_if_it_was():
    tables = load_script("docs/build_tables.py")
    run = json.loads((ROOT / "results/table-1-laptop.json").read_text(encoding="utf-8"))
    whole = sum(run["training_seconds"].values()) + run["attack_seconds"]
    assert "in one run" in tables.provenance({**run, "duration_s": whole + 1.0})
    assert "in one run" not in tables.provenance({**run, "duration_s": 0.5 * whole})  # resumed
    assert ("--shipped" in run["command"]) == (run["duration_s"] < whole)


@pytest.mark.parametrize("name", ["1", "2", "photos", "3"])
def test_each_table_says_how_it_was_made_and_reports_on_held_out_images(name):
    from flowrob import zoo
    from flowrob.cli.recipes import RECIPES, TABLES

    run = json.loads((ROOT / f"results/table-{name}-laptop.json").read_text(encoding="utf-8"))
    plan = TABLES[name, "laptop"]
    assert run["command"].startswith(f"python -m flowrob table {name}") and run["duration_s"] > 0
    assert "/" not in run["command"]
    there = [model for model in plan.models.values() if model in zoo.names()]
    assert run["models"] == (there if "--shipped" in run["command"] else [*plan.models.values()])
    assert run["settings"]["attacks"] == plan.attacks
    for model in run["models"]:
        _, limits = RECIPES[model].images.report
        last = "all" if limits is None else f"{limits[0]}..{limits[1] - 1}"
        assert run["data"][model]["report"].endswith(last)
    found = {(row["model"], row["eps"]): row["mean"] for row in run["rows"]
             if row["row"] in ("clean", "strongest")}  # fmt: skip
    if plan.baselines:
        labels = {label for label, model in plan.models.items() if model in run["models"]}
        rivals = {"mixture", "clean, Student-t base"}
        rivals |= {"ladder"} if labels >= {*plan.ladder} else set()
        assert {model for model, _ in found} == labels | rivals
    for (model, eps), value in found.items():
        if isinstance(value, float) and eps and (model, 0) in found:
            assert value >= found[model, 0]


def test_the_readme_counts_the_images_as_they_are():
    from flowrob import data
    from flowrob.cli.recipes import CELEBA, CIFAR10

    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split("|")[1].strip(): line for line in readme if line.startswith("| ")}
    crops = {split: data.photo_crops(split) for split in ("train", "valid", "test")}
    words = {3: "three", 5: "five"}
    seen, tested = ({crop.photo for crop in crops[split]} for split in ("train", "test"))
    assert seen == {crop.photo for crop in crops["valid"]} and not seen & tested
    many = words[len(seen)]
    expected = (
        f"| {len(crops['train']):,} crops of {many} photographs | {len(crops['valid'])} crops of "
        f"the same {many}, out of squares that no training crop touches | {len(crops['test'])} "
        f"crops of {words[len(tested)]} other photographs |"
    )
    assert rows["photographs"].endswith(expected)
    for name, images in (("CIFAR-10", CIFAR10), ("CelebA", CELEBA)):
        ranges = (f"{a}..{b - 1}" for _, (a, b) in (images.train, images.tune, images.report))
        cells = rows[name].split("|")[2:5]
        assert all(r in cell for r, cell in zip(ranges, cells, strict=True))
