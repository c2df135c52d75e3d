"""Saying a default aloud changes nothing: every keyword of every attack, one by one, and all."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from small_attacks import seeded

from flowrob import zoo
from flowrob.attacks import (
    L2Ball,
    LinfBall,
    attack_images,
    lower_likelihood,
    pgd,
    raise_likelihood,
    square,
    universal_perturbation,
)
from flowrob.data import load
from flowrob.units import bits_per_dim


def said(*functions, **changed):
    """The defaults of the functions' keywords, but for those ``changed``."""
    found = {}
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        found |= {p.name: p.default for p in parameters if p.default is not p.empty}
    return found | changed


# A named attack passes its options on, and has one default of its own: the schedule.
NAMED = {"schedule": "cosine"}
CASES = {
    pgd: said(pgd),
    square: said(square),
    lower_likelihood: said(pgd, lower_likelihood, **NAMED),
    raise_likelihood: said(pgd, raise_likelihood, **NAMED),
    universal_perturbation: said(pgd, universal_perturbation, **NAMED),
}
del CASES[square]["generator"]  # None is refused: it is always needed
IMAGES = said(pgd, lower_likelihood, attack_images, **NAMED)
del IMAGES["box"]  # that of grey levels, not to be chosen
EVERY = [(f, name, LinfBall(0.05)) for f, options in CASES.items() for name in [*options, "all"]]
EVERY += [(f, "all", L2Ball(0.4)) for f in CASES]


def chosen(options, name):
    return options if name == "all" else {name: options[name]}


def same(first, second):
    assert type(first) is type(second)
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


def test_the_cases_are_the_real_keywords():
    assert CASES[pgd]["schedule"] == "constant"
    assert {"num_steps", "step_size", "schedule", "momentum", "start", "restarts"} < {*CASES[pgd]}
    assert {"num_steps", "share", "against"} < {*CASES[square]}
    assert {*CASES[lower_likelihood]} == {*CASES[pgd], "using"}
    assert {"goal", "norm", "noise", "num_draws", "quantize", "using", "start"} < {*IMAGES}
    for method in (pgd, square, attack_images):
        assert all(
            p.default is not p.empty
            for p in inspect.signature(method).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        )


@pytest.mark.parametrize(("method", "name", "ball"), EVERY, ids=lambda v: getattr(v, "__name__", v))
def test_every_keyword_of_every_attack(flow, x, method, name, ball):
    x = x[:3]
    quick = {"num_steps": 25, "generator": seeded()} if method is square else {}
    aloud = quick | chosen(CASES[method], name)
    if method is square and name in ("num_steps", "all"):  # the slow default, on few pixels
        x, quick, aloud = x[:1, :, :1, :1], {}, chosen(CASES[method], name)

        def objective(y):
            return -(y - 0.3).square().flatten(1).sum(1)
    else:
        objective = flow.log_prob
    found = []
    for options in (quick, aloud):
        fresh = {"generator": seeded()} if method is square else {}
        found.append(method(objective, x, ball, **options | fresh))
    same(*found)


@pytest.mark.parametrize("goal", ["lower", "raise"])
@pytest.mark.parametrize("name", [*IMAGES, "all"])
def test_every_keyword_of_attack_images(flow, images, name, goal):
    own = {} if name == "goal" else {"goal": goal}
    aloud = chosen(IMAGES, name) | own
    if name in ("generator", "all"):  # "fixed" noise needs one: here its default is of use
        aloud["noise"] = own["noise"] = "midpoint"
        found = [attack_images(flow.log_prob, images[:3], 4, **o) for o in (own, aloud)]
    else:
        found = [
            attack_images(flow.log_prob, images[:3], 4, **options, generator=seeded())
            for options in (own, aloud)
        ]
    same(*found)


@pytest.mark.parametrize("method", [lower_likelihood, raise_likelihood])
def test_every_keyword_that_a_named_attack_passes_on_to_square(x, method):
    def log_prob(y):
        return -(3.0 * y).sin().flatten(1).sum(1)

    options = said(square, num_steps=30, generator=None, using=square)
    del options["generator"]
    quiet = method(log_prob, x, LinfBall(0.05), using=square, num_steps=30, generator=seeded())
    same(method(log_prob, x, LinfBall(0.05), **options, generator=seeded()), quiet)


def test_another_schedule_takes_the_steps_of_pgd(flow, x):
    for schedule in ("constant", "auto"):
        options = {"schedule": schedule, "num_steps": 4}
        named = lower_likelihood(flow.log_prob, x, LinfBall(0.03), **options)
        plain = pgd(lambda y: -flow.log_prob(y), x, LinfBall(0.03), **options)
        assert torch.equal(named.history, plain.history)


def test_steps_said_aloud_fall_along_the_cosine_too(flow, x):
    ball, options = LinfBall(0.03), {"num_steps": 4, "step_size": 0.06}
    steps = lower_likelihood(flow.log_prob, x, ball, **options)
    same(steps, lower_likelihood(flow.log_prob, x, ball, num_steps=4))
    same(steps, lower_likelihood(flow.log_prob, x, ball, schedule="cosine", **options))
    half = raise_likelihood(flow.log_prob, x, ball, num_steps=4, step_size=0.03)
    same(half, raise_likelihood(flow.log_prob, x, ball, num_steps=4))


def test_the_cosine_said_aloud_does_not_weaken_the_attack_on_a_shipped_glow():
    """It once did, by a quarter: the steps were those of the constant schedule."""
    flow, crops = zoo.load("glow-photos-clean", "cpu"), load("photos", split="test", limit=4)
    found = [
        attack_images(flow.log_prob, crops, 8, num_steps=10, generator=seeded(), **options)
        for options in ({}, {"schedule": "cosine"})
    ]
    same(*found)
    assert bits_per_dim(-found[1].value, flow.num_dims).mean() > 13.5
