"""Numbers at their ends, and figures without a place: an answer or words, never a silent NaN."""

from __future__ import annotations

import math

import pytest
import torch
from matplotlib.figure import Figure

from flowrob import attacks, evaluation, flows, linear, plots, training
from flowrob._checks import checked


def test_a_covariance_that_overflows_is_refused():
    with pytest.raises(ValueError, match="covariance is too large"):
        linear.GaussianFlow([0.0, 0.0], torch.eye(2, dtype=torch.float64) * 1e308)
    wide = linear.GaussianFlow([0.0, 0.0], torch.eye(2, dtype=torch.float64) * 1e300)
    assert wide.log_prob(torch.zeros(1, 2)).isfinite().all()


@pytest.mark.parametrize("case", [linear.best_case, linear.worst_case])
def test_a_radius_whose_drop_overflows_is_refused(case):
    flow = linear.GaussianFlow([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    x = torch.tensor([[0.3, 1.0]])
    with pytest.raises(ValueError, match=r"radius .* 1e\+300"):
        case(flow, x, 1e300)
    assert case(flow, x, 1e150).drop.isfinite().all()


def test_a_student_base_of_many_degrees_is_the_normal_one(pictures, small_glow):
    normal = evaluation.rebased(small_glow)(pictures)
    for degrees in (1e9, 1e20, 1e300, 1e308):
        many = evaluation.rebased(small_glow, degrees=degrees)(pictures)
        torch.testing.assert_close(many, normal, rtol=1e-5, atol=1e-4)
    below, above = (evaluation.rebased(small_glow, degrees=d)(pictures) for d in (999e3, 1001e3))
    torch.testing.assert_close(below, above, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("ball", [attacks.L2Ball, attacks.LinfBall])
@pytest.mark.parametrize("radius", [1e-25, 1e25])
def test_balls_of_extreme_radius_are_used(ball, radius):
    x = torch.zeros(2, 4)  # where float32 is fine enough for 1e-25
    found = attacks.pgd(lambda y: y.flatten(1).sum(1), x, ball(radius), num_steps=2, box=None)
    sizes = ball(radius).size(found.x.double())
    assert (sizes > 0.9 * radius).all() and (sizes < 1.001 * radius).all()


def test_realnvp_has_no_density_well_outside_the_box():
    flow = flows.realnvp((1, 4, 4), 1, 2, 1)
    flow.initialize(torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    x = torch.full((4, 1, 4, 4), 0.5)
    x[0, 0, 0, 0], x[1, 0, 0, 0], x[2, 0, 0, 0] = 1.2, -0.2, math.nan
    log_prob = flow.log_prob(x)
    assert log_prob[:2].tolist() == [-math.inf] * 2
    assert log_prob[2].isnan() and log_prob[3].isfinite()
    assert flow.bits_per_dim(x)[0] == math.inf
    assert evaluation.rebased(flow)(x)[0] == -math.inf


def test_a_figure_without_a_notebook_is_said(capsys):
    plots.show(Figure(), "A picture of nothing at all")
    said = capsys.readouterr().out
    assert said.startswith("A picture of nothing at all\n") and "figure.savefig" in said


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda: training.Update(warmup_steps=-1), "warmup_steps"),
        (lambda: training.Update(warmup_steps=True), "warmup_steps"),
        (lambda: training.Update(learning_rate="1"), "learning_rate"),
        (lambda: training.Loss.of("hybrid", eps=1000), "eps"),
        (lambda: training.Guard(None), "explode_above"),
    ],
)
def test_options_of_a_run_are_checked_when_they_are_given(change, name):
    with pytest.raises((ValueError, TypeError), match=name):
        change()


def test_arguments_are_held_against_their_annotations():
    @checked
    def scaled(x: torch.Tensor, times: float | None = None, *rest: int, word: str = "") -> None:
        return None

    scaled(torch.zeros(1), 2, "not looked at")
    scaled(torch.zeros(1), torch.tensor(2.0), word="a")
    for wrong in ({"x": 1.0}, {"x": torch.zeros(1).to("meta")}, {"times": "2"}, {"times": True},
                  {"word": 3}):  # fmt: skip
        (name,) = wrong
        with pytest.raises(TypeError, match=f"^{name} must be .*, got "):
            scaled(**{"x": torch.zeros(1), **wrong})


@pytest.fixture
def pictures():
    return torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small_glow(pictures):
    flow = flows.glow((1, 4, 4), 1, 1, 4)
    flow.initialize(pictures)
    return flow


def test_decode_names_a_wrong_precision_and_hands_on_what_is_no_fault_of_z(monkeypatch):
    flow = flows.plane_flow().double()
    x = torch.rand(32, 2, generator=torch.Generator().manual_seed(0))
    flow.initialize(x.double())
    with pytest.raises(ValueError, match=r"z of a sample must be like encode\(x\).*float64"):
        flow.decode(torch.zeros(2, 2))
    fault = RuntimeError("out of memory")
    monkeypatch.setattr(flow.bijection, "inverse", lambda z: (_ for _ in ()).throw(fault))
    with pytest.raises(RuntimeError, match="out of memory"):
        flow.decode(torch.zeros(2, 2, dtype=torch.float64))
