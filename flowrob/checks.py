"""Checks of arguments: what a signature says is held against what a caller gives, before any work.

    @checked                 what is annotated: numbers, tensors, flows, generators, texts
    @drawn                   what is not, data for a figure: the error says what it got

Both raise errors whose words name the argument. Values, a negative radius for example, are the
business of the function itself.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """``function``, whose arguments are held against its annotations when it is called.

    A number may come as a tensor or an array of no dimensions, a tensor must hold its numbers in
    memory. The elements of containers are not looked at, nor what has no annotation.

    Raises:
        TypeError: when called with an argument of another kind, which is named.

    >>> @checked
    ... def half(x: float) -> float:
    ...     return x / 2
    >>> half("1")
    Traceback (most recent call last):
    TypeError: x must be a number, got '1'
    """
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:
        return typing.get_type_hints(function)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        bound = signature.bind(*args, **options)
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            single = kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            if single and name in hints() and not _fits(value, hints()[name]):
                raise TypeError(f"{name} must be {_words(hints()[name])}, got {_shown(value)}")
        return function(*args, **options)

    return typing.cast(F, call)


def drawn(function: F) -> F:
    """``function``, which draws: whatever it cannot draw is an error that says what it was given.

    Raises:
        TypeError: when called with an annotated argument of another kind.
        ValueError: when its data cannot be drawn.
    """
    checks = checked(function)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return checks(*args, **options)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
                np.linalg.LinAlgError) as error:  # fmt: skip
            if str(error).startswith(f"{function.__name__}: "):
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            given = inspect.signature(function).bind_partial(*args, **options).arguments
            told = ", ".join(f"{name}={_shown(value)}" for name, value in given.items())
            raise kind(f"{function.__name__}: cannot draw {told}: {error}") from error

    return typing.cast(F, call)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that an annotation names; true of annotations unknown here."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(hint))
    if hint in (None, types.NoneType):
        return value is None
    if hint in (float, int):
        whole = Integral if hint is int else Real
        if hint is float and isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
            return not getattr(value, "is_meta", False) and isinstance(value.item(), Real)
        return isinstance(value, whole) and not isinstance(value, bool)
    if hint is Tensor:
        dense = isinstance(value, Tensor) and value.layout == torch.strided
        return dense and not value.is_meta and not value.is_quantized
    kind = origin or hint
    if kind is typing.Literal or not isinstance(kind, type):
        return True
    if kind in (Sequence, Iterable):
        return isinstance(value, Iterable) and not isinstance(value, str | bytes)
    return isinstance(value, (tuple, list) if kind is tuple else kind)


def _words(hint: Any) -> str:
    """An annotation as a reader would say it."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_words(one) for one in typing.get_args(hint))
    known = {float: "a number", int: "an integer", str: "a text", types.NoneType: "None",
             bool: "True or False", Tensor: "a dense tensor"}  # fmt: skip
    name = getattr(typing.get_origin(hint) or hint, "__name__", str(hint))
    module = getattr(typing.get_origin(hint) or hint, "__module__", "").split(".")
    if module[0] == "flowrob" and len(module) > 1:
        name = f"a {'.'.join(module[:2])}.{name}"
    return known.get(hint, name)


def _shown(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, Tensor):
        return (
            f"a {value.layout} tensor of {value.dtype}, shape {tuple(value.shape)}, {value.device}"
        )
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    if not isinstance(value, Real | str | bytes | list | tuple | dict | None):
        return type(value).__name__
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
