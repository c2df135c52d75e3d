"""Losses: clean, adversarial, hybrid, and whom a step attacks, how far and how hard (section 4).

    loss = (1 - a) NLL(x) + a NLL(x + delta*(x)),   delta* = argmax of the NLL in the eps ball

with a = 0 (clean), 1 (adversarial: every image is attacked) or 1/2 (hybrid, the paper's defence).
delta* is found by a few steps of projected gradient ascent against the model of the moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from flowrob.attacks import LinfBall
from flowrob.attacks.balls import Region, column
from flowrob.attacks.gradient import ascend, cosine
from flowrob.attacks.objectives import Negative, frozen
from flowrob.attacks.outcome import Best
from flowrob.attacks.starts import check_integers
from flowrob.distributed import Group
from flowrob.flows import Flow
from flowrob.training.batches import Batch, Batches, mirror, step_generator
from flowrob.training.visits import KINDS, Fresh, Memory
from flowrob.units import check_number

SHARES = {"clean": 0.0, "hybrid": 0.5, "adversarial": 1.0}
ATTACK_DTYPES = {None: None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loss:
    """(1 - a) NLL(x) + a NLL(x + delta*(x)): whom training attacks, how far and how hard.

    ``Loss.of("hybrid", eps=4, memory=Pool(20))`` makes one by name.

    Source: section 4 of the paper; the defaults, eps = 8 and 10 attack steps, are those of its
    section 5, one half of the images ("1:1 ratio") that of section 4.

    Attributes:
        share: a, in [0, 1]. Where a * batch_size is no integer, batches differ by one attacked
            image, and the share is right on average.
        eps: radius of the attack, in grey levels.
        random_eps: the share of attacked images, in [0, 1], whose radius is drawn, each its own,
            uniform in (0, eps]; the others are attacked at eps. Robust at all radii, at the price
            of fewer attacks at the greatest.
        eps_warmup_steps: over how many steps eps grows linearly to its value.
        attack_steps: gradient steps per attacked image; one costs about as much as a clean step.
        attack_warmup_steps: over how many steps their number grows linearly from 1 (rounded up):
            cheaper while the model is crude, at the price of weaker attacks early on.
        attack_dtype: "bfloat16" runs the couplings' networks in it while attacking (x, z and
            log-det stay as they are): faster on hardware made for it, slower on most CPUs; the
            attack climbs rounded gradients. The weights are trained in full precision all the same.
        memory: how long an attack lasts: ``Fresh()``, ``PerImage()`` or ``Pool(visits)``; see
            :mod:`flowrob.training.visits`.

    Raises:
        ValueError: a share or random_eps outside [0, 1], a negative eps or warm-up, attack_steps
            below 1, or an unknown attack_dtype.
        TypeError: a memory of another kind.
    """

    share: float
    eps: float = 8.0
    random_eps: float = 0.0
    eps_warmup_steps: int = 0
    attack_steps: int = 10
    attack_warmup_steps: int = 0
    attack_dtype: str | None = None
    memory: Memory = Fresh()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        check_number(share=self.share, random_eps=self.random_eps, eps=self.eps)
        for name in ("share", "random_eps"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"{name} is a share, and must lie in [0, 1], got {getattr(self, name)}"
                )
        if not 0.0 <= self.eps <= 256.0:
            raise ValueError(f"eps must lie in [0, 256] (grey levels), got {self.eps}")
        least = {"eps_warmup_steps": 0, "attack_warmup_steps": 0, "attack_steps": 1}
        for name, value in least.items():
            check_integers(value, **{name: getattr(self, name)})
        if self.attack_dtype is not None and self.attack_dtype not in [*ATTACK_DTYPES]:
            raise ValueError(
                f"attack_dtype must be one of {[*ATTACK_DTYPES]}, got {self.attack_dtype!r}"
            )
        if not isinstance(self.memory, Fresh):
            raise TypeError(f"memory must be Fresh(), PerImage() or Pool(), got {self.memory!r}")

    @classmethod
    def of(cls, loss: str | Loss, **options) -> Loss:
        """ "clean", "adversarial" or "hybrid" with other options than their defaults.

        Args:
            loss: a name, or a loss to change.
            **options: attributes of :class:`Loss`; a share only for "hybrid".

        Raises:
            ValueError: an unknown name, options for "clean", or a share that the name contradicts.
            TypeError: an option that is no attribute.
        """
        if isinstance(loss, Loss):
            return replace(loss, **options)
        if not isinstance(loss, str) or loss not in SHARES:
            raise ValueError(f"loss must be one of {[*SHARES]} or a Loss, got {loss!r}")
        if loss == "clean" and options:
            raise ValueError(f'loss="clean" attacks nobody: it takes no {", ".join(options)}')
        share = options.pop("share", SHARES[loss])
        if share != SHARES[loss] and not (loss == "hybrid" and 0.0 < share < 1.0):
            raise ValueError(
                f"share={share} with loss={loss!r}: it must lie in (0, 1) and needs "
                'loss="hybrid"; for 0 and 1 say loss="clean" or loss="adversarial"'
            )
        return cls(share, **options)

    @property
    def name(self) -> str:
        """ "clean", "adversarial", or "hybrid" for whatever lies between."""
        return {0.0: "clean", 1.0: "adversarial"}.get(self.share, "hybrid")

    def record(self) -> dict:
        """The loss as plain data: of a clean one its name alone."""
        if not self.share:
            return {"name": self.name}
        kind = next(name for name, kind in KINDS.items() if type(self.memory) is kind)
        return {"name": self.name, **asdict(self), "memory": {"kind": kind, **asdict(self.memory)}}

    def count(self, step: int, batch_size: int) -> int:
        """How many images of step ``step`` are attacked: the share, exact on average."""
        per_step = self.share * batch_size
        return round((step + 1) * per_step) - round(step * per_step)

    def num_steps(self, step: int) -> int:
        """How many gradient steps an attack takes in step ``step``."""
        return math.ceil(self.attack_steps * _ramp(step, self.attack_warmup_steps))

    def radius(self, step: int, num: int, generator: torch.Generator) -> Tensor:
        """The balls' radii for the images of a step, in units of x, shape (num,)."""
        radius = _ramp(step, self.eps_warmup_steps) * self.eps / 256
        if not self.random_eps:
            return torch.full((num,), radius, dtype=torch.float64)
        drawn = torch.rand(num, generator=generator) < self.random_eps
        share = 1.0 - torch.rand(num, generator=generator)  # in (0, 1]
        return radius * torch.where(drawn, share, 1.0)

    def validation_radius(self, num: int) -> Tensor:
        """eps, or for the share ``random_eps`` radii evenly spaced up to it, shape (num,)."""
        share, drawn = torch.ones(num), round(self.random_eps * num)
        share[:drawn] = torch.arange(1, drawn + 1) / max(drawn, 1)
        return share * self.eps / 256

    def perturb(
        self,
        flow: Flow,
        x: Tensor,
        radius: Tensor,
        num_steps: int,
        start: Tensor | None = None,
        reach: float | Tensor = 2.0,
    ) -> Tensor:
        """x + delta*(x) as found by ``num_steps`` of ascent, whose steps fall along a cosine.

        Args:
            flow: the model of the moment.
            x: (batch, C, H, W) in [0, 1]; an empty batch comes back.
            radius: of the l_inf balls, in units of x, (batch,).
            num_steps: from :meth:`num_steps`.
            start: in units of the radius, shaped like x: the search begins there, not at x.
            reach: length of the first step in radii, a number or (batch,).
        """
        if not len(x):
            return x
        ball = LinfBall(radius).on(x)
        region, best, objective = Region(x, ball, (0.0, 1.0)), Best(x), Negative(flow.log_prob)
        begin = x if start is None else region.project(x + start * ball.radius)
        first = column(torch.as_tensor(reach).to(x).expand(len(x)), x) * ball.radius
        lengths = [cosine(k, num_steps) * first for k in range(num_steps)]
        with _conditioners_in(flow, ATTACK_DTYPES[self.attack_dtype]), frozen(objective):
            ascend(objective, region, begin, lengths, best)
        return best.x


class Adversary:
    """Attacks the first images of each batch, and remembers what its loss's memory keeps.

    Args:
        loss: whom, how far, how hard.
        batches: of the run.
        group: of processes, each of which attacks its own rows.
        weight: a parameter of the flow: says on which device and in which precision.
        perturbations: (N, C, H, W) int8, in units of the radius / 127, from an earlier run or
            :meth:`room_for`; changed in place. None if nothing is kept.
    """

    def __init__(
        self,
        loss: Loss,
        batches: Batches,
        group: Group,
        weight: Tensor,
        perturbations: Tensor | None,
    ):
        self.loss, self.batches, self.group, self.weight = loss, batches, group, weight
        self.perturbations = perturbations

    @staticmethod
    def room_for(loss: Loss, batches: Batches) -> Tensor | None:
        """Zeros for the perturbations that a run will keep; None if it keeps none."""
        room = loss.memory.room(len(batches.images), batches.batch_size) if loss.share else 0
        shape = batches.images.shape[1:]
        return torch.zeros(room, *shape, dtype=torch.int8) if room else None

    def attack(self, flow: Flow, batch: Batch, step: int) -> tuple[Tensor, int]:
        """Own rows of x, the first of them attacked, and how many of the whole batch are."""
        visit = self.loss.memory.visit(step)
        x = batch.x[self.group.rows(len(batch.x))].to(self.weight)
        num = self.loss.count(visit.drawn_at, len(batch.x))
        if not num:
            return x, 0
        if visit.age:
            batch = self.batches.draw(visit.drawn_at)
        own = self.group.rows(num)
        radius = self.loss.radius(step, num, batch.generator)[own].to(self.weight)
        attacked = batch.x[own].to(self.weight)
        start: Tensor | None = None
        reach: float | Tensor = 2.0
        if self.perturbations is not None:
            which = self.loss.memory.places(visit, batch.indices[:num], len(batch.x))
            turned = batch.mirrored[:num]
            kept = mirror(self.perturbations[which], turned).to(self.weight.dtype) / 127
            drawn = step_generator(self.batches.seed, 4, step)
            start, reach = self.loss.memory.begin(kept, visit, drawn)
            start = None if start is None else start[own].to(self.weight)
            reach = torch.as_tensor(reach).expand(num)[own].to(self.weight)
        moved = self.loss.perturb(flow, attacked, radius, self.loss.num_steps(step), start, reach)
        if self.perturbations is not None:
            delta = (moved - attacked) / LinfBall(radius).on(attacked).radius
            delta = self.group.gather((127 * delta).round().to(torch.int8), num)
            self.perturbations[which] = mirror(delta.cpu(), turned)
        return torch.cat((moved, x[len(moved) :])), num


def _ramp(step: int, num_steps: int) -> float:
    """Linear growth to 1, reached in the last of ``num_steps``."""
    return min(1.0, (step + 1) / num_steps) if num_steps else 1.0


@contextmanager
def _conditioners_in(flow: Flow, dtype: torch.dtype | None) -> Iterator[None]:
    """While this runs, the couplings' networks compute under autocast to ``dtype``, if given."""
    parts = (getattr(module, "conditioner", None) for module in flow.modules())
    networks = [part for part in parts if isinstance(part, nn.Module)]

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
