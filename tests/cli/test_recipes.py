"""Recipes: what they say, that they cannot change, and what --set makes of them."""

import itertools
import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from flowrob import flows, records, zoo
from flowrob.cli.recipes import CELEBA, LADDERS, OPTIONS, PHOTOS, RECIPES, TABLES, USES, Recipe
from flowrob.data import SPLITS
from flowrob.training import Fresh, Guard, Loss, PerImage, Pool, Update

OF_ATTACKS = {*(field.name for field in fields(Loss)), "visits"} - {"share"}
FRESH = (3600, 9500)  # where the images begin that nobody had looked at
OLDER = (" 3400..3599", " 9250..9499")  # what was reported on before
PLAIN = Recipe(PHOTOS, ("glow", {}), 10)


def test_everything_that_ships_has_a_recipe():
    assert {*zoo.names()} <= {*RECIPES} | {*LADDERS}
    for name in {*zoo.names()} & {*LADDERS}:
        parts = zoo.recipe(name)["parts"]
        assert {label: part["preset"] for label, part in parts.items()} == LADDERS[name]


@pytest.mark.parametrize("name", [name for name in zoo.names() if name not in LADDERS])
def test_recipes_repeat_the_settings_of_the_weights_that_ship(name):
    """Some were written when fit() had 28 flat options, with other names."""
    recipe, shipped = RECIPES[name], zoo.recipe(name)
    asked, stored = recipe.settings(), dict(shipped["settings"])
    share, visits = stored.pop("adversarial_share", None), stored.pop("attack_visits", 1)
    reused = stored.pop("reuse_perturbations", False)
    if asked["loss"] == "clean":
        assert (share, visits, reused) == (None, 1, False)
    else:
        if "memory" not in stored:
            stored["share"] = Loss.of(stored["loss"]).share if share is None else share
            stored |= {"visits": visits, "memory": "per-image" if reused else "fresh"}
            stored |= {"memory": "pool"} if visits > 1 else {}
        assert set(stored) == set(asked) == set(OPTIONS)
    unused = OF_ATTACKS if asked["loss"] == "clean" else set()
    assert not set(stored) - set(asked) - unused
    for option in {*asked} & {*stored}:
        assert asked[option] == stored[option], option
    assert stored["loss"] == asked["loss"] and "num_steps" in stored
    assert json.loads(json.dumps(recipe.build().config)) == zoo.load(name, "cpu").config
    for use in USES:
        if (part := getattr(recipe.images, use)) is None:
            assert shipped["data"][use] is None
            continue
        split, limits = part
        if limits is None:
            assert shipped["data"][use] == f"{recipe.images.data}, {split} all"
        elif use != "report" or limits[0] not in FRESH:
            # made from a file with the same images, which has no splits
            assert shipped["data"][use].endswith(f" {limits[0]}..{limits[1] - 1}")
        else:  # the first were trained before these images were set aside
            assert shipped["data"][use].endswith((*OLDER, f" {limits[0]}..{limits[1] - 1}"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete(name):
    recipe = RECIPES[name]
    assert callable(getattr(flows, recipe.model[0]))
    assert recipe.images.train and recipe.images.report
    used = [part for use in USES if (part := getattr(recipe.images, use))]
    assert all(split in SPLITS[recipe.images.data] for split, _ in used)
    clean = recipe.loss.name == "clean"
    if "-eps" in name:  # a rung of a ladder
        assert recipe.loss.name == "adversarial" and name.endswith(f"eps{recipe.loss.eps:g}")
    elif name.endswith("hybrid-fresh"):  # the paper's own: Loss's defaults
        assert replace(recipe.loss, eps_warmup_steps=0) == Loss.of("hybrid")
    else:
        assert name.endswith(("clean", "base") if clean else recipe.loss.name)
    further = "-eps" in name or name.endswith("hybrid-fresh")
    if recipe.start:  # the same model and images, trained clean
        start = RECIPES[recipe.start]
        assert start.loss == Loss.of("clean") and (start.start is not None) == further
        assert (start.model, start.images) == (recipe.model, recipe.images)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_tells_all_settings_in_strict_json(name):
    recipe = RECIPES[name]
    settings = recipe.settings()
    expected = set(OPTIONS) - (set() if recipe.loss.share else OF_ATTACKS)
    assert set(settings) == expected and len(OF_ATTACKS) == 8
    assert json.loads(json.dumps(records.plain(settings), allow_nan=False)) == settings
    assert all(v is None or isinstance(v, str | int | float) for v in settings.values())


@pytest.mark.parametrize("name", {str(r.model): name for name, r in RECIPES.items()}.values())
def test_every_recipe_builds_the_flow_that_it_names(name):
    """One of each model, which many recipes share."""
    builder, options = RECIPES[name].model
    flow = RECIPES[name].build()
    assert flow.config["kind"] == builder
    assert flow.config == getattr(flows, builder)(**options).config


@pytest.mark.parametrize(
    "data, ranges",
    [
        ("cifar10", [(0, 3200), (3200, 3400), (3600, 3800)]),
        ("celeba", [(0, 9000), (9000, 9250), (9500, 9750)]),
    ],
)
def test_ranges_of_the_real_sets(data, ranges):
    found = [r for n, r in RECIPES.items() if r.images.data == data and not n.startswith("paper-")]
    assert len(found) >= 3
    for recipe in found:
        parts = [getattr(recipe.images, use) for use in USES]
        assert parts == [("train", limits) for limits in ranges]
        assert recipe.keep_best


def test_a_recipe_cannot_be_changed_in_place():
    recipe = RECIPES["tiny-hybrid"]
    for whole, name in ((recipe, "num_steps"), (recipe.loss, "eps"), (recipe.update, "optimizer"),
                        (recipe.images, "data"), (TABLES["1", "laptop"], "title")):  # fmt: skip
        with pytest.raises(FrozenInstanceError):
            setattr(whole, name, None)
    before = recipe.settings()
    assert recipe.changed([("num_steps", 3), ("eps", 4.0)]) != recipe
    assert recipe.settings() == before and recipe.changed([]) == recipe


def test_each_option_changes_the_part_it_belongs_to():
    hybrid = replace(PLAIN, loss=Loss.of("hybrid"))
    values = {
        "num_steps": 7, "batch_size": 8, "flips": False, "validate_every": 9, "keep_best": True,
        "checkpoint_every": 11, "share": 0.25, "eps": 4, "random_eps": 0.5, "eps_warmup_steps": 12,
        "attack_steps": 3, "attack_warmup_steps": 13, "attack_dtype": "bfloat16", "visits": 5,
        "optimizer": "muon", "learning_rate": 0.01, "warmup_steps": 14, "max_grad_norm": 15.0,
        "ema_decay": 0.5, "explode_above": 16.0, "loss": "hybrid", "memory": "pool",
    }  # fmt: skip
    assert set(values) == set(OPTIONS)
    changed = hybrid.changed(values.items())
    assert changed.settings() == values
    expected = Loss(0.25, 4, 0.5, 12, 3, 13, "bfloat16", Pool(5))
    assert changed.loss == expected and changed.guard == Guard(16.0)
    assert changed.update == Update("muon", 0.01, 14, 15.0, 0.5)


def test_the_loss_comes_first_whatever_the_order():
    pairs = [("loss", "hybrid"), ("share", 0.3), ("visits", 4), ("memory", "pool")]
    expected = Loss.of("hybrid", share=0.3, memory=Pool(4))
    for order in itertools.permutations(pairs):
        assert PLAIN.changed(order).loss == expected


def test_another_loss_begins_from_its_own_defaults():
    hybrid = RECIPES["tiny-hybrid"].changed([("loss", "adversarial"), ("eps", 4)])
    assert hybrid.loss == Loss.of("adversarial", eps=4)
    assert RECIPES["tiny-hybrid"].changed([("eps", 4), ("loss", "clean")]).loss == Loss(0.0)


def test_attacks_are_no_option_of_a_clean_recipe():
    """A table hands the same settings to all its models: a clean one ignores what is not its."""
    pairs = [("eps", 4.0), ("attack_steps", 1), ("memory", "pool"), ("visits", 3), ("share", 0.5)]
    assert PLAIN.changed(pairs) == PLAIN
    assert PLAIN.changed([*pairs, ("num_steps", 3)]) == replace(PLAIN, num_steps=3)
    for wrong in (("share", 2), ("eps", -1.0), ("memory", "none"), ("visits", 0)):
        with pytest.raises(ValueError, match=wrong[0]):
            PLAIN.changed([wrong])


def test_memories_by_name_and_by_number_of_visits():
    hybrid = replace(PLAIN, loss=Loss.of("hybrid"))

    def memory(*pairs):
        return hybrid.changed(pairs).loss.memory

    assert memory(("memory", "per-image")) == PerImage()
    assert memory(("memory", "pool")) == Pool(20) and memory(("visits", 5)) == Pool(5)
    assert RECIPES["tiny-hybrid"].changed([("memory", "fresh")]).loss.memory == Fresh()
    with pytest.raises(ValueError, match=r"memory must be one of .*'per-image'.* got 'long'"):
        memory(("memory", "long"))
    with pytest.raises(ValueError, match="visits must be at least 2, got 1"):
        memory(("visits", 1))


@pytest.mark.parametrize(
    "name, pair, message",
    [
        ("tiny-adversarial", ("share", 0.5), r"share=0\.5 with loss='adversarial'"),
        ("tiny-hybrid", ("share", 1), r"share=1 with loss='hybrid'"),
        ("tiny-hybrid", ("attack_steps", 0), r"attack_steps must be at least 1"),
        ("tiny-clean", ("loss", "robust"), r"loss must be one of"),
        ("tiny-clean", ("ema_decay", 1.5), r"ema_decay must lie in"),
    ],
)
def test_values_that_an_option_does_not_take_are_refused(name, pair, message):
    with pytest.raises(ValueError, match=message):
        RECIPES[name].changed([pair])


def test_other_images_keep_their_uses_or_must_say_which(tmp_path):
    same = CELEBA.elsewhere(None, True, dict.fromkeys(USES))
    assert same == replace(CELEBA, download=True)
    file = CELEBA.elsewhere("a/faces.npz", False, {"report": (5, 9), "tune": None, "train": None})
    assert file.train == (None, (0, 9000)) and file.report == (None, (5, 9))
    assert file.describe("report") == "faces.npz, images 5..8"
    with pytest.raises(ValueError, match=r"--data 'faces\.npz': neither photos, .* nor a path"):
        PHOTOS.elsewhere("faces.npz", False, dict.fromkeys(USES))
    (tmp_path / "faces.npz").touch()
    with pytest.raises(ValueError, match=r"faces\.npz has no splits: .* train on, --train A:B"):
        PHOTOS.elsewhere(str(tmp_path / "faces.npz"), False, dict.fromkeys(USES))
