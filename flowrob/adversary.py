"""The adversary inside the training loop: whom it attacks, how far, and how hard (section 4).

    delta*(x) = argmax of the NLL of x + delta over |delta|_inf <= radius,   by a few steps of PGD

Attacks are what robust training spends its time on. Here are the ways to spend less: fewer steps
early, networks in low precision, and going on from an earlier perturbation of the same image, of
the epoch before (reuse) or of some steps before (visits).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from flowrob.ascent import Best, clip
from flowrob.attacks import LinfBall, lower_likelihood
from flowrob.balls import column
from flowrob.flows import Flow
from flowrob.objectives import Negative, evaluate, frozen, value_and_gradient

ATTACK_DTYPES = {None: None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Adversary:
    """How the attacked part of a batch is made.

    Args: those of :func:`flowrob.training.fit`, explained there.
    """

    adversarial_share: float
    eps: float
    random_eps: float
    eps_warmup_steps: int
    attack_steps: int
    attack_warmup_steps: int
    attack_dtype: str | None
    attack_visits: int = 1

    def visit(self, step: int) -> tuple[int, int, int]:
        """Whom a step attacks: (place in the pool, step that drew its images, visits before).

        The pool's ``attack_visits`` places are visited in turn. Every round another place, and one
        only, gets new images, so that attacks of all ages are in it.
        """
        round_, place = divmod(step, self.attack_visits)
        age = min(round_, (round_ + place) % self.attack_visits)  # in the first round all are new
        return place, step - age * self.attack_visits, age

    def count(self, step: int, batch_size: int) -> int:
        """How many images of step ``step`` are attacked: the share, exact on average."""
        per_step = self.adversarial_share * batch_size
        return round((step + 1) * per_step) - round(step * per_step)

    def num_steps(self, step: int) -> int:
        """How many PGD steps an attack takes in step ``step``."""
        return math.ceil(self.attack_steps * _ramp(step, self.attack_warmup_steps))

    def radius(self, step: int, num: int, generator: torch.Generator) -> float | Tensor:
        """The ball's radius for the images of a step, in units of x: a number, or (num,)."""
        radius = _ramp(step, self.eps_warmup_steps) * self.eps / 256
        if not self.random_eps:
            return radius
        drawn = torch.rand(num, generator=generator) < self.random_eps
        share = 1.0 - torch.rand(num, generator=generator)  # in (0, 1]
        return radius * torch.where(drawn, share, 1.0)

    def begin(self, kept: Tensor, age: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where attacks start and how far their first step reaches, (num,), both in radii.

        Reused perturbations (``kept``) are gone on from with a step of one radius. New attacks of
        the pool (``age`` 0) start at x or, one in two, anywhere in the ball, with a step of two.
        Its older ones go on from where they were with a step log-uniform in [1/8, 2]: long ones
        jump from corner to corner of the ball, short ones climb on between the corners, where
        attacks of few steps never look.
        """
        if self.attack_visits == 1:
            return kept, kept.new_ones(len(kept))
        if age:
            return kept, 2.0 ** (1.0 - 4.0 * torch.rand(len(kept), generator=generator))
        anywhere = 2.0 * torch.rand(kept.shape, generator=generator) - 1.0
        away = torch.rand(len(kept), generator=generator) < 0.5
        return anywhere * column(away, anywhere), kept.new_full((len(kept),), 2.0)

    def validation_radius(self, num: int) -> Tensor:
        """eps, or for the share ``random_eps`` radii evenly spaced up to it, shape (num,)."""
        share, drawn = torch.ones(num), round(self.random_eps * num)
        share[:drawn] = torch.arange(1, drawn + 1) / max(drawn, 1)
        return share * self.eps / 256

    def in_radii(self, delta: Tensor, radius: float | Tensor) -> Tensor:
        """delta in units of its radius: what :meth:`attack` takes for ``start``."""
        return delta / LinfBall(radius).on(delta).radius

    def attack(
        self,
        flow: Flow,
        x: Tensor,
        radius: float | Tensor,
        num_steps: int,
        start: Tensor | None = None,
        reach: float | Tensor = 1.0,
    ) -> Tensor:
        """x + delta*(x) as found by ``num_steps`` of PGD.

        Args:
            flow: the model of the moment.
            x: (batch, C, H, W) in [0, 1]; an empty batch comes back.
            radius: of the l_inf ball, in units of x: a number, or (batch,).
            num_steps: from :meth:`num_steps`.
            start: in units of the radius, shaped like x. The search begins there, not at x, and
                its steps fall from ``reach`` radii, not from two, to 0.
            reach: a number, or (batch,).
        """
        ball = LinfBall(radius)
        if not len(x):
            return x
        with _conditioners_in(flow, ATTACK_DTYPES[self.attack_dtype]):
            if start is None:
                return lower_likelihood(flow.log_prob, x, ball, num_steps=num_steps, check=False).x
            ball, objective = ball.on(x), Negative((flow.log_prob,))
            best, current = Best(x, None, keep_infinite=True), x + start * ball.radius
            reach = column(torch.as_tensor(reach).to(x).expand(len(x)), x)
            with frozen(objective):
                for k in range(num_steps):
                    current = clip(x + ball.project(current - x), (0.0, 1.0))
                    value, gradient = value_and_gradient(objective, current)
                    best.keep(current, value)
                    scale = 0.5 * (1.0 + math.cos(math.pi * k / num_steps))
                    current = current + scale * reach * ball.radius * ball.steepest(gradient)
                current = clip(x + ball.project(current - x), (0.0, 1.0))
                best.keep(current, evaluate(objective, current))
            return best.x


def _ramp(step: int, num_steps: int) -> float:
    """Linear growth to 1, reached in the last of ``num_steps``."""
    return min(1.0, (step + 1) / num_steps) if num_steps else 1.0


@contextmanager
def _conditioners_in(flow: Flow, dtype: torch.dtype | None) -> Iterator[None]:
    """While this runs, the couplings' networks compute under autocast to ``dtype``, if given."""
    networks = [m.conditioner for m in flow.modules() if hasattr(m, "conditioner")]

    def narrowed(forward):
        def run(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype):
                return forward(x).to(x.dtype)

        return run

    try:
        for network in networks if dtype is not None else ():
            network.forward = narrowed(network.forward)  # hides the method of the class
        yield
    finally:
        for network in networks:
            vars(network).pop("forward", None)
