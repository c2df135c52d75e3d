"""Arguments are held against the annotations of a function when it is called, before any work.

Values, a negative radius for example, are the business of the function itself.
"""

from __future__ import annotations

import functools
import inspect
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """``function``, whose arguments are held against its annotations when it is called.

    A number may come as a tensor or an array of no dimensions, a tensor must hold its numbers in
    memory. The elements of containers are not looked at: beartype would draw one of them at random.

    Raises:
        TypeError: when called with an argument of another kind, which is named.

    >>> @checked
    ... def half(x: float) -> float:
    ...     return x / 2
    >>> half("1")
    Traceback (most recent call last):
    TypeError: x must be float, got str '1'
    """
    signature = inspect.signature(function)
    fits = functools.cache(lambda: _fits(function, signature))  # at first use: imports stay quick

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        for name, value in signature.bind(*args, **options).arguments.items():
            if name in fits() and not fits()[name](value):
                wanted = signature.parameters[name].annotation
                raise TypeError(
                    f"{name} must be {wanted}, got {type(value).__name__} {reprlib.repr(value)}"
                )
        return function(*args, **options)

    return typing.cast(F, call)


def _fits(function: Callable, signature: inspect.Signature) -> dict[str, Callable[[Any], bool]]:
    """Whether a value fits, for every annotated argument."""
    from beartype.door import is_bearable
    from beartype.vale import Is

    several = Annotated[Iterable, Is[lambda value: not isinstance(value, str | bytes)]]
    meant = {
        float: Annotated[object, Is[_is_number]],
        int: Annotated[Integral, Is[lambda value: not isinstance(value, bool)]],
        torch.Tensor: Annotated[torch.Tensor, Is[_is_dense]],
        Sequence: several, Iterable: several, tuple: tuple | list,
    }  # fmt: skip

    def outer(hint: Any) -> Any:
        origin = typing.get_origin(hint) or hint
        if origin in (typing.Union, types.UnionType):
            return typing.Union[tuple(outer(one) for one in typing.get_args(hint))]  # noqa: UP007
        return hint if origin is typing.Literal else meant.get(origin, origin)

    hints = {name: outer(hint) for name, hint in typing.get_type_hints(function).items()}
    alone = [p.name for p in signature.parameters.values() if not str(p).startswith("*")]
    return {n: functools.partial(is_bearable, hint=hints[n]) for n in alone if n in hints}


def _is_number(value: Any) -> bool:
    if getattr(value, "ndim", 1) == 0 and (not torch.is_tensor(value) or _is_dense(value)):
        value = value.item()
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_dense(value: torch.Tensor) -> bool:
    return value.layout == torch.strided and not value.is_meta and not value.is_quantized
