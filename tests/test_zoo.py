"""Models on disk: saved, loaded, shipped, and errors that say what to do."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import flowrob
from flowrob import flows, zoo
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

    monkeypatch.setattr(zoo, "save_file", fails)
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
    with pytest.raises(ValueError, match=r"foreign.safetensors was not written by zoo.save"):
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
    with pytest.raises(ValueError, match="has no config"):
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
