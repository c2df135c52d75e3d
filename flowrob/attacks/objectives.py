"""Objectives: what an attack maximises, one number per sample, and its gradient in x alone.

An objective is any callable from (batch, ...) to (batch,). A *composite* (a negative, a mixture, a
mean over dequantisation noise) is an objective made of others; it remembers them, so that an attack
can find the torch modules underneath: to keep their weights out of the graph while it runs
(:func:`frozen`), and to score its result in float64 (:func:`in_double`).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from flowrob._checks import require
from flowrob.flows.bijections import Bijection
from flowrob.units import check_dense

Objective = Callable[[Tensor], Tensor]


def check_callable(f: Any) -> None:
    """Raise a TypeError unless an objective can be called; a class is no objective."""
    if not callable(f) or isinstance(f, type):
        raise TypeError(
            f"log_prob, or the objective, must be callable, such as flow.log_prob, got {f!r}"
        )


class Composite(ABC):
    """An objective made of others, which :meth:`over` finds and changes."""

    @abstractmethod
    def over(self, change: Callable[[Any], Any]) -> Composite:
        """The same composite of ``change(f)`` in the place of each f it is made of."""

    def rows(self, which: slice) -> Composite:
        """The same objective for ``x[which]``; only what holds data per sample overrides this."""
        return self.over(lambda f: of_rows(f, which))

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """One number per sample, shape (batch,)."""


@dataclass(frozen=True)
class Negative(Composite):
    """x -> -f(x)."""

    f: Objective

    def __post_init__(self) -> None:
        check_callable(self.f)

    def over(self, change: Callable[[Any], Any]) -> Negative:
        """-change(f)."""
        return Negative(change(self.f))

    def __call__(self, x: Tensor) -> Tensor:
        """-f(x)."""
        return -checked(self.f(x), x)


@dataclass(frozen=True)
class Finite(Composite):
    """x -> f(x), with NaN, which never wins, where that is +inf."""

    f: Objective

    def __post_init__(self) -> None:
        check_callable(self.f)

    def over(self, change: Callable[[Any], Any]) -> Finite:
        """Finite(change(f))."""
        return Finite(change(self.f))

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), or NaN."""
        value = checked(self.f(x), x)
        # A sum, not a fill: the gradient there is f's, and can lead the search out again.
        return torch.where(value == math.inf, value + math.nan, value)


@dataclass(frozen=True)
class Cast(Composite):
    """x -> f(x), x in the precision of the model behind f; made by :func:`fitted`."""

    f: Objective

    def over(self, change: Callable[[Any], Any]) -> Cast:
        """Cast(change(f))."""
        return Cast(change(self.f))

    def __call__(self, x: Tensor) -> Tensor:
        """f(x)."""
        return self.f(x.to(_precision(self.f) or x.dtype))


def fitted(objective: Objective, x: Tensor) -> tuple[Objective, list[str]]:
    """The objective, taking x in its own precision if it takes no other, and a word about it."""
    check_callable(objective)
    dtype = _precision(objective)
    if dtype in (None, x.dtype) or not len(x):
        return objective, []
    try:
        evaluate(of_rows(objective, slice(1)), x[:1])
    except (RuntimeError, TypeError):  # raised once more by the cast one, if that is not the cause
        names = [str(kind).removeprefix("torch.") for kind in (x.dtype, dtype)]
        said = f"x is {names[0]} and the model {names[1]}: x is cast wherever the model sees it"
        return Cast(objective), [f"{said}; pass both in one precision to be rid of this"]
    return objective, []


def _precision(objective: Objective) -> torch.dtype | None:
    """The dtype of all floating-point weights behind an objective, if they share one."""
    weights = (p for module in modules(objective) for p in module.parameters())
    found = {weight.dtype for weight in weights if weight.is_floating_point()}
    return found.pop() if len(found) == 1 else None


def of_rows(objective: Objective, which: slice) -> Objective:
    """The objective for the rows ``which`` of the batch alone."""
    return objective.rows(which) if isinstance(objective, Composite) else objective


def _module(function: Objective) -> nn.Module | None:
    """The module that ``function`` is, or is a method of."""
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def modules(objective: Objective) -> list[nn.Module]:
    """All torch modules that can be found behind an objective."""
    if isinstance(objective, Composite):
        found: list[nn.Module] = []

        def collect(f: Any) -> Any:
            found.extend(modules(f))
            return f

        objective.over(collect)
        return found
    module = _module(objective)
    return [] if module is None else [module]


@contextmanager
def frozen(objective: Objective) -> Iterator[None]:
    """While this runs, no graph is built for the weights behind ``objective``.

    Values and ``.grad`` of the parameters are not touched; their ``requires_grad`` comes back, and
    so do the buffers that a model in train mode moves, such as BatchNorm's running statistics.
    """
    weights = [p for module in modules(objective) for p in module.parameters() if p.requires_grad]
    parts = [part for module in modules(objective) for part in module.modules() if part.training]
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in parts
        for name, buffer in part._buffers.items()
        if buffer is not None and not isinstance(part, Bijection)  # whose buffers never move
    ]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
        for part, name, buffer, value in buffers:
            part._buffers[name] = buffer
            if not torch.equal(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)


def unsteady(objective: Objective) -> list[str]:
    """A warning if a layer behind the objective is in train mode, where it is no function of x."""
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    parts = [part for module in modules(objective) for part in module.modules() if part.training]
    names = sorted({type(part).__name__ for part in parts if isinstance(part, kinds)})
    if not names:
        return []
    return [
        f"the model is in train mode, where its {', '.join(names)} give a sample another value in "
        "another batch, or each time: call model.eval() first"
    ]


def in_double(objective: Any) -> Any:
    """The objective on float64 copies of the modules behind it (the objective itself if none)."""
    if isinstance(objective, Composite):
        return objective.over(in_double)
    module = _module(objective)
    if module is None:
        return objective
    numbers = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    if all(t.dtype == torch.float64 for t in numbers):
        return objective
    twin = copy.deepcopy(module).double()
    # the function itself: its name may be no attribute (decorated, private, assigned later)
    return twin if objective is module else MethodType(objective.__func__, twin)


def evaluate(objective: Objective, x: Tensor) -> Tensor:
    """objective(x) without a graph, its shape checked; it gets a copy, and may write to it."""
    with torch.no_grad():
        return checked(objective(x.detach().clone()), x)


def value_and_gradient(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    """The objective and its gradient in x alone: no parameter's ``.grad`` is touched."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = checked(objective(x), x)
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "the objective does not depend on x through differentiable operations; "
            "remove any no_grad or detach inside it, or attack with flowrob.attacks.square"
        )
    return value.detach(), gradient


def scored(objective: Objective, x: Tensor) -> Tensor:
    """objective(x) with its graph, x and the shape of the value checked; it gets a copy."""
    check_batch(x)
    return checked(objective(x.clone()), x)


def check_batch(x: Tensor) -> None:
    """Raise unless ``x`` is a batch of samples, whatever its numbers.

    Raises:
        TypeError: no dense tensor of floating point.
        ValueError: another shape than (batch, ...).
    """
    check_dense(x)
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}")
    require(x.dim() >= 2, "x", tuple(x.shape), "of shape (batch, ...)")


def checked(value: Tensor, x: Tensor) -> Tensor:
    """``value``, if it is one floating-point number per sample of x.

    Raises:
        ValueError: another shape.
        TypeError: other numbers.
    """
    if not isinstance(value, Tensor) or value.shape != (len(x),):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"the objective must return one value per sample, shape ({len(x)},), got {got}; "
            "pass a log_prob, sum over the features, do not average over the batch"
        )
    if not value.is_floating_point():
        raise TypeError(f"the objective must return floating-point values, got {value.dtype}")
    return value


class Precise:
    """Scores points in float64 where the model can, in its own dtype where it cannot.

    The dtype of the returned values says which.
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        try:
            self.twin = in_double(objective)
        except (RuntimeError, TypeError, NotImplementedError):  # modules that cannot be copied
            self.twin = None

    def __call__(self, x: Tensor, which: slice = slice(None)) -> Tensor:
        """Values at x, the rows ``which`` of the objective's batch; no graph."""
        if self.twin is not None:
            try:
                value = evaluate(of_rows(self.twin, which), x.double())
                if value.dtype == torch.float64:
                    return value
            except (RuntimeError, TypeError, ValueError, AssertionError):  # made for float32 only
                pass
            self.twin = None
        return evaluate(of_rows(self.objective, which), x)

    def batches(self, x: Tensor, parts: list[slice]) -> Tensor:
        """The same for all of x, so many rows at a time."""
        with frozen(self.objective):
            return torch.cat([self(x[part], part) for part in parts])
