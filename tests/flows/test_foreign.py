"""Glows that other libraries trained: densities from their tensors, and from ours."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowrob import zoo
from flowrob.flows import import_state_dict


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def gaussian(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    terms = ((x - mean) / log_std.exp()) ** 2 + 2.0 * log_std + math.log(2.0 * math.pi)
    return -0.5 * terms.sum((1, 2, 3))


def y0ast_log_prob(state: dict[str, Tensor], x: Tensor, num_steps: int, num_levels: int) -> Tensor:
    """log p(x) in Glow-PyTorch's conventions, straight from its tensors."""

    def zero_conv(name: str, h: Tensor) -> Tensor:
        h = conv(h, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"])
        return h * (3.0 * state[f"{name}.logs"]).exp()

    def actnorm(name: str, h: Tensor) -> Tensor:
        return (h + state[f"{name}.bias"]) * state[f"{name}.logs"].exp()

    def matrix(name: str) -> Tensor:
        if f"{name}.weight" in state:
            return state[f"{name}.weight"]
        lower = state[f"{name}.lower"].tril(-1) + torch.eye(len(state[f"{name}.p"])).double()
        diagonal = state[f"{name}.sign_s"] * state[f"{name}.log_s"].exp()
        return state[f"{name}.p"] @ lower @ (state[f"{name}.upper"].triu(1) + diagonal.diag())

    z, total, layer = x - 0.5, torch.zeros(len(x), dtype=x.dtype), 0
    for level in range(num_levels):
        n, c, height, width = z.shape
        z = F.unfold(z, 2, stride=2).reshape(n, 4 * c, height // 2, width // 2)
        pixels, layer = height * width // 4, layer + 1
        for _ in range(num_steps):
            name = f"flow.layers.{layer}"
            z = actnorm(f"{name}.actnorm", z)
            total = total + pixels * state[f"{name}.actnorm.logs"].sum()
            w = matrix(f"{name}.invconv")
            z = torch.einsum("ij,njhw->nihw", w, z)
            total = total + pixels * torch.linalg.slogdet(w).logabsdet
            z1, z2 = z[:, : 2 * c], z[:, 2 * c :]
            h = conv(z1, state[f"{name}.block.0.conv.weight"])
            h = actnorm(f"{name}.block.0.actnorm", h).relu()
            h = conv(h, state[f"{name}.block.2.conv.weight"])
            h = actnorm(f"{name}.block.2.actnorm", h).relu()
            h = zero_conv(f"{name}.block.4", h)
            scale = torch.sigmoid(h[:, 1::2] + 2.0)
            z = torch.cat((z1, (z2 + h[:, 0::2]) * scale), dim=1)
            total = total + scale.log().sum((1, 2, 3))
            layer += 1
        if level < num_levels - 1:
            z, leaving = z[:, : 2 * c], z[:, 2 * c :]
            h = zero_conv(f"flow.layers.{layer}.conv", z)
            total = total + gaussian(leaving, h[:, 0::2], h[:, 1::2])
            layer += 1
    h = torch.zeros(len(z), 2 * z.shape[1], *z.shape[2:], dtype=z.dtype)
    if "learn_top_fn.logs" in state:
        h = zero_conv("learn_top_fn", h)
    mean, log_std = h.chunk(2, dim=1)
    return total + gaussian(z, mean, log_std)


def y0ast_state_dict(
    channels: int, num_steps: int, num_levels: int, width: int, lu: bool, learn_top: bool
) -> dict[str, Tensor]:
    """Random tensors under the names and shapes of Glow-PyTorch."""
    generator, state, layer = seeded(2), {}, 0

    def draw(name: str, *shape: int, scale: float = 0.1) -> None:
        state[name] = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    def draw_zero_conv(name: str, n_in: int, n_out: int) -> None:
        draw(f"{name}.conv.weight", n_out, n_in, 3, 3)
        draw(f"{name}.conv.bias", n_out)
        draw(f"{name}.logs", n_out, 1, 1)

    for level in range(num_levels):
        channels, layer = 4 * channels, layer + 1
        for _ in range(num_steps):
            name = f"flow.layers.{layer}"
            sizes = ((0, width, channels // 2, 3), (2, width, width, 1))
            for i, n_out, n_in, kernel in sizes:
                draw(f"{name}.block.{i}.conv.weight", n_out, n_in, kernel, kernel)
                draw(f"{name}.block.{i}.actnorm.bias", 1, n_out, 1, 1)
                draw(f"{name}.block.{i}.actnorm.logs", 1, n_out, 1, 1)
            draw_zero_conv(f"{name}.block.4", width, channels)
            draw(f"{name}.actnorm.bias", 1, channels, 1, 1)
            draw(f"{name}.actnorm.logs", 1, channels, 1, 1)
            draw(f"{name}.invconv.weight", channels, channels, scale=0.1)
            state[f"{name}.invconv.weight"] += torch.eye(channels).flip(0)
            if lu:
                p, lower, upper = torch.linalg.lu(state.pop(f"{name}.invconv.weight"))
                state[f"{name}.invconv.p"] = p
                state[f"{name}.invconv.lower"] = lower
                state[f"{name}.invconv.upper"] = upper.triu(1)
                state[f"{name}.invconv.sign_s"] = upper.diagonal().sign()
                state[f"{name}.invconv.log_s"] = upper.diagonal().abs().log()
            layer += 1
        if level < num_levels - 1:
            draw_zero_conv(f"flow.layers.{layer}.conv", channels // 2, channels)
            channels, layer = channels // 2, layer + 1
    state["prior_h"] = torch.zeros(1, 2 * channels, 1, 1)
    if learn_top:
        draw_zero_conv("learn_top_fn", 2 * channels, 2 * channels)
    return state


@pytest.mark.parametrize(("lu", "learn_top"), [(True, True), (False, False)])
def test_a_glow_in_y0asts_layout(lu, learn_top):
    state = y0ast_state_dict(3, 2, 3, 6, lu, learn_top)
    before = {key: value.clone() for key, value in state.items()}
    flow = import_state_dict(state, "y0ast", (3, 16, 8))
    assert all(torch.equal(state[key], before[key]) for key in before)
    x = torch.rand(3, 3, 16, 8, generator=seeded(3), dtype=torch.float64)
    expected = y0ast_log_prob(state, x, num_steps=2, num_levels=3)
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-10, atol=0)
    single = import_state_dict({k: v.float() for k, v in state.items()}, "y0ast", (3, 16, 8))
    torch.testing.assert_close(
        single.log_prob(x.float()).double(), expected, rtol=1e-5, atol=0, check_dtype=False
    )
    torch.testing.assert_close(flow.decode(flow.encode(x)), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("use_lu", [True, False])
def test_a_glow_trained_with_normflows(use_lu):
    nf = pytest.importorskip("normflows", reason="needs the extra 'compare': normflows")
    num_levels, num_steps, hidden = 2, 2, 6
    bases, levels, merges = [], [], []
    for i in range(num_levels):
        channels = 3 * 2 ** (num_levels + 1 - i)
        blocks = [nf.flows.GlowBlock(channels, hidden, use_lu=use_lu) for _ in range(num_steps)]
        levels.append([*blocks, nf.flows.Squeeze()])
        side = 8 // 2 ** (num_levels - i)
        leaving = channels // 2 if i > 0 else channels
        bases.append(nf.distributions.GlowBase((leaving, side, side)))
        if i > 0:
            merges.append(nf.flows.Merge())
    model = nf.MultiscaleFlow(bases, levels, merges, class_cond=False).double()
    x = torch.rand(5, 3, 8, 8, generator=seeded(4), dtype=torch.float64)
    with torch.no_grad():
        generator = seeded(5)
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
        model.log_prob(x, None)  # its ActNorm sets itself on the first batch it sees
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
        expected = model.log_prob(x, None)
        flow = import_state_dict(model.state_dict(), "normflows", (3, 8, 8))
        torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-10, atol=0)
        single = flow.float().log_prob(x.float()).double()
        torch.testing.assert_close(single, expected, rtol=1e-5, atol=0)


def test_an_imported_glow_can_be_saved(tmp_path):
    state = {k: v.float() for k, v in y0ast_state_dict(1, 1, 2, 4, True, True).items()}
    flow = import_state_dict(state, "y0ast", (1, 8, 8))
    path = zoo.save(flow, tmp_path / "imported.safetensors", {"source": "Glow-PyTorch"})
    x = torch.rand(2, 1, 8, 8, generator=seeded())
    torch.testing.assert_close(zoo.load(path, "cpu").log_prob(x), flow.log_prob(x))


def test_import_names_what_does_not_fit():
    state = y0ast_state_dict(1, 1, 2, 4, True, True)
    with pytest.raises(ValueError, match=r"layout must be one of .*'y0ast'.*, got 'tensorflow'"):
        import_state_dict(state, "tensorflow", (1, 8, 8))
    extra = {**state, "project_ycond.logs": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"left over .*project_ycond.logs"):
        import_state_dict(extra, "y0ast", (1, 8, 8))
    with pytest.raises(ValueError, match=r"image_shape=\(3, 8, 8\).* images of 1 channels"):
        import_state_dict(state, "y0ast", (3, 8, 8))
    del state["flow.layers.1.block.2.conv.weight"]
    with pytest.raises(ValueError, match=r"has no 'flow.layers.1.block.2.conv.weight'"):
        import_state_dict(state, "y0ast", (1, 8, 8))
    for layout in ("y0ast", "normflows"):
        with pytest.raises(ValueError, match="is not a Glow in layout"):
            import_state_dict({"weight": torch.zeros(2)}, layout, (1, 8, 8))
