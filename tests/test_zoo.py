"""Models on disk: saved, loaded, shipped, and errors that say what to do."""

from __future__ import annotations

import json
import math
import os
import stat
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import flowrob
from flowrob import flows, records, zoo
from flowrob.flows import ActNorm


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BUILDERS = {
    "glow": lambda: flows.glow((3, 8, 8), 2, 2, 8),
    "realnvp": lambda: flows.realnvp((1, 8, 8), 2, 4, 1),
    "plane_flow": lambda: flows.plane_flow(3, 8),
}


def trained(kind: str) -> tuple[flows.Flow, Tensor]:
    """A flow whose weights differ from the initial ones everywhere, and inputs for it."""
    flow, generator = BUILDERS[kind](), seeded(1)
    x = torch.rand(4, *flow.event_shape, generator=generator)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        flow.initialize(x)
    return flow, x


@pytest.mark.parametrize("kind", BUILDERS)
def test_save_and_load_give_the_same_density_and_recipe(kind, tmp_path):
    flow, x = trained(kind)
    recipe = {"data": "photos", "seed": 3, "loss": "clean"}
    path = zoo.save(flow, tmp_path / "model.safetensors", recipe)
    loaded = zoo.load(path, "cpu")
    torch.testing.assert_close(loaded.log_prob(x), flow.log_prob(x), rtol=1e-5, atol=1e-3)
    assert not loaded.training and all(not m.training for m in loaded.modules())
    assert loaded.config == flow.config and repr(loaded) == repr(flow)
    assert zoo.recipe(path) == recipe and zoo.recipe(str(path)) == recipe
    for key, value in flow.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = zoo.save(trained("plane_flow")[0], tmp_path / "model.safetensors", {"seed": 1})

    def fails(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(records, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        zoo.save(trained("plane_flow")[0], path, {"seed": 2})
    assert zoo.recipe(path) == {"seed": 1} and zoo.load(path, "cpu").event_shape == (2,)


def test_load_uses_the_device_asked_for(tmp_path, monkeypatch):
    path = zoo.save(trained("plane_flow")[0], tmp_path / "model.safetensors", {})
    assert {p.device.type for p in zoo.load(path, "meta").parameters()} == {"meta"}
    monkeypatch.setenv("FLOWROB_DEVICE", "")  # as if it were not set
    assert flowrob.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setenv("FLOWROB_DEVICE", "cpu")
    assert {p.device.type for p in zoo.load(path).parameters()} == {"cpu"}


@pytest.mark.gpu
def test_a_model_gives_the_same_density_on_the_gpu(tmp_path):
    flow, x = trained("glow")
    loaded = zoo.load(zoo.save(flow, tmp_path / "model.safetensors", {}), "cuda").double()
    log_prob = loaded.log_prob(x.double().cuda()).cpu()
    torch.testing.assert_close(log_prob, flow.double().log_prob(x.double()))


def test_weights_load_into_any_dtype():
    flow, x = trained("glow")
    double = BUILDERS["glow"]().double()
    double.load_state_dict(flow.state_dict())
    assert double.log_prob(x.double()).dtype == torch.float64
    torch.testing.assert_close(double.log_prob(x.double()).float(), flow.log_prob(x))
    half = BUILDERS["glow"]().bfloat16()
    half.load_state_dict(flow.state_dict())
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="no model 'glow-of-nowhere': choose one of"):
        zoo.load("glow-of-nowhere")
    for name in zoo.names():
        with pytest.raises(ValueError, match=name):
            zoo.recipe("glow-of-nowhere")
    with pytest.raises(ValueError, match="no model"):
        zoo.load(tmp_path / "absent.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match=r"foreign.safetensors is not a model that flowrob wrote"):
        zoo.load(foreign)
    text = tmp_path / "text.safetensors"
    text.write_text("not safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        zoo.load(text)
    flow = trained("plane_flow")[0]
    with pytest.raises(ValueError, match=r"must end in .safetensors, got 'model.pt'"):
        zoo.save(flow, tmp_path / "model.pt", {})
    flow.config = {"kind": "butterfly"}
    path = zoo.save(flow, tmp_path / "later.safetensors", {})
    with pytest.raises(ValueError, match="unknown architecture 'butterfly'"):
        zoo.load(path)
    with pytest.raises(ValueError, match="has no config"):
        zoo.save(flows.Flow(ActNorm(2), (2,)), tmp_path / "model.safetensors", {})
    with pytest.raises(TypeError, match=r"flow must be a flowrob\.flows\.Flow"):
        zoo.save(ActNorm(2), tmp_path / "model.safetensors", {})


def test_shipped_models_are_small_and_load():
    for name in zoo.names():
        flow = zoo.load(name, "cpu")
        path = zoo._path(name)
        assert path.stat().st_size <= 3 * 2**20
        x = torch.rand(2, *flow.event_shape, generator=seeded())
        assert flow.log_prob(x).isfinite().all()
        recipe = zoo.recipe(name)
        for one in recipe.get("parts", {"": recipe}).values():  # a ladder's parts have each its own
            assert "seed" in one and "data" in one
    assert sum(zoo._path(name).stat().st_size for name in zoo.names()) <= 60 * 2**20


def test_half_precision_files_are_half_as_large_and_load_as_float32(tmp_path):
    flow, x = trained("glow")
    full = zoo.save(flow, tmp_path / "full.safetensors", {})
    half = zoo.save(flow, tmp_path / "half.safetensors", {}, torch.float16)
    assert half.stat().st_size < 0.7 * full.stat().st_size
    loaded = zoo.load(half, "cpu")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    moved = (loaded.bits_per_dim(x) - flow.bits_per_dim(x)).abs().max()
    assert 0.0 < moved < 0.002
    indices = {k: v for k, v in flow.state_dict().items() if not v.is_floating_point()}
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in indices.items())


def test_no_flipped_bit_loads_in_silence(tmp_path):
    flow, _ = trained("glow")
    path = zoo.save(flow, tmp_path / "model.safetensors", {"data": "photos", "seed": 3})
    whole = path.read_bytes()
    generator = seeded(4)
    for place in torch.randint(len(whole) * 8, (150,), generator=generator).tolist():
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        for read in (zoo.load, zoo.recipe):
            with pytest.raises(ValueError, match=r"model\.safetensors"):
                read(path)
    path.write_bytes(whole)
    assert zoo.recipe(path)["seed"] == 3


def test_a_file_with_another_recipe_than_it_was_saved_with_does_not_load(tmp_path):
    flow, _ = trained("plane_flow")
    path = zoo.save(flow, tmp_path / "model.safetensors", {"seed": 3})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    for key, value in (("recipe", '{"seed": 4}'), ("digest", ""), ("config", "{}")):
        save_file(tensors, path, {**metadata, key: value})
        with pytest.raises(ValueError, match="do not match their digest"):
            zoo.load(path)
    some = dict(list(tensors.items())[1:])
    save_file(some, path, metadata)
    with pytest.raises(ValueError, match="do not match their digest"):
        zoo.load(path)


def crafted(path: Path, config: dict, tensors: dict[str, Tensor] | None = None) -> Path:
    """A file with a digest that is right, and a config that is not."""
    whole = trained("glow")[0].state_dict() if tensors is None else tensors
    words = {"config": json.dumps(config), "recipe": "{}"}
    return records.write_tensors(path, "model", whole, words)


SIZES = {"kind": "glow", "image_shape": [3, 8, 8], "num_levels": 2, "num_steps": 2, "width": 8}


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 10**8},
        {"width": 10**9},
        {"num_levels": 9},
        {"num_levels": 60, "image_shape": [3, 2**60, 2**60]},
        {"image_shape": [3, 2**40, 2**40]},
        {"image_shape": [2**40, 8, 8]},
        {"image_shape": 8},
        {"image_shape": ["a", 8, 8]},
        {"num_steps": "2"},
        {"num_steps": -1},
        {"num_steps": True},
        {"min_scale": "small"},
        {"nonsense": 1},
        {"kind": ["glow"]},
        {"kind": "realnvp"},
        {"kind": "plane_flow"},
        {"width": 4},
    ],
    ids=str,
)
def test_crafted_weights_are_refused_before_anything_is_built(change, tmp_path):
    started = time.monotonic()
    path = crafted(tmp_path / "crafted.safetensors", {**SIZES, **change})
    with pytest.raises(ValueError, match=r"crafted\.safetensors"):
        zoo.load(path)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("shape", [[1, 2**13, 2**13], [1, 2**16, 2**16], [1, 8, 2**16]], ids=str)
def test_masks_greater_than_the_file_are_not_built(shape, tmp_path, monkeypatch):
    flow, _ = trained("realnvp")
    path = tmp_path / "crafted.safetensors"
    tensors, config = flow.state_dict(), {**flow.config, "image_shape": shape}
    assert zoo.load(crafted(path, flow.config, tensors), "cpu").event_shape == (1, 8, 8)
    monkeypatch.setitem(zoo._BUILDERS, "realnvp", lambda **given: pytest.fail("built"))
    with pytest.raises(ValueError, match=r"crafted\.safetensors.* greater than the"):
        zoo.load(crafted(path, config, tensors))


def test_the_tensors_of_a_foreign_file_are_not_even_read(tmp_path, monkeypatch):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, path, {"flowrob": "checkpoint"})

    @contextmanager
    def header_only(path, framework):
        with safe_open(path, framework) as file:
            yield SimpleNamespace(metadata=file.metadata, keys=lambda: pytest.fail("read"))

    monkeypatch.setattr(records, "safe_open", header_only)
    with pytest.raises(ValueError, match=r"foreign\.safetensors is not a model that flowrob"):
        zoo.load(path)


def test_files_without_a_flow_or_with_other_tensors_are_refused(tmp_path):
    path = tmp_path / "crafted.safetensors"
    tensors = trained("glow")[0].state_dict()
    assert zoo.load(crafted(path, SIZES), "cpu").num_dims == 192  # the file that is changed below
    name = next(iter(tensors))
    others = (
        {k: v for k, v in tensors.items() if k != name},
        {**tensors, "more": torch.zeros(2)},
        {**tensors, name: tensors[name][None]},
        {**tensors, name: tensors[name].long()},
        {k: v * math.nan if v.is_floating_point() else v for k, v in tensors.items()},
    )
    for other in others:
        with pytest.raises(ValueError, match=r"crafted\.safetensors"):
            zoo.load(crafted(path, SIZES, other))
    for config, recipe in (("{}", "{}"), ("[", "{}"), ("{}", "3"), ("[" * 10**5, "{}")):
        records.write_tensors(path, "model", tensors, {"config": config, "recipe": recipe})
        with pytest.raises(ValueError, match=r"crafted\.safetensors"):
            zoo.load(path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    for wrong in ("", ".", tmp_path, tmp_path / "pipe.safetensors", "a\0b.safetensors"):
        with pytest.raises(ValueError, match="no model"):
            zoo.load(wrong)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[" * 10**5,
        '{"flowrob": "mixture"}',
        '{"flowrob": "mixture", "parts": ["a"]}',
        '{"flowrob": "mixture", "parts": {"a": 3}}',
        '{"flowrob": "mixture", "parts": {"a": "crafted.json"}}',
        '{"flowrob": "mixture", "parts": {"a": "a.safetensors"}, "weights": [0.5, 0.5]}',
        '{"flowrob": "mixture", "parts": {"a": "a.safetensors"}, "weights": ["1"]}',
        '{"flowrob": "mixture", "parts": {"a": "absent.safetensors"}}',
    ],
)
def test_crafted_mixtures_are_refused(content, tmp_path):
    zoo.save(trained("plane_flow")[0], tmp_path / "a.safetensors", {})
    path = tmp_path / "crafted.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"crafted\.json|absent\.safetensors"):
        zoo.load(path)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    flow, _ = trained("plane_flow")
    with torch.no_grad():
        next(flow.parameters()).fill_(1e6)
    with pytest.raises(ValueError, match=r"model\.safetensors.*too narrow.*float32"):
        zoo.save(flow, tmp_path / "model.safetensors", {}, torch.float16)
    assert zoo.load(zoo.save(flow, tmp_path / "model.safetensors", {}), "cpu")


def test_saved_weights_are_readable_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        path = zoo.save(trained("plane_flow")[0], tmp_path / "model.safetensors", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("make", [*BUILDERS.values(), lambda: zoo.load("glow-photos-clean", "cpu")])
def test_building_and_loading_draw_nothing_from_the_global_generator(make):
    before = torch.get_rng_state()
    flow = make()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(bool(weight.isfinite().all()) for weight in flow.state_dict().values())
