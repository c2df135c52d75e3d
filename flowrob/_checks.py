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

import numpy as np
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
                wanted = _words(function, name, signature)
                raise TypeError(
                    f"{name} must be {wanted}, got {type(value).__name__} {reprlib.repr(value)}"
                )
        return function(*args, **options)

    return typing.cast(F, call)


def check_all(module: dict[str, Any]) -> None:
    """Make every public function :func:`checked` that a module, given as globals(), defines."""
    for name, value in [*module.items()]:
        own = inspect.isfunction(value) and value.__module__ == module["__name__"]
        if own and not name.startswith("_"):
            module[name] = checked(value)


def require(holds: object, name: str, value: object, remedy: str) -> None:
    """ValueError "name must be remedy, got value" unless the condition holds."""
    if not holds:
        raise ValueError(f"{name} must be {remedy}, got {value!r}")


def numbers(name: str, x: Any, *lengths: int | None, finite: bool = False) -> np.ndarray:
    """Numbers as an array of these lengths, None being any; without lengths of any shape."""
    try:
        x = x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:  # bfloat16, sparse, ragged
        raise TypeError(f"{name} must be real numbers: {error}") from error
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers, got {x.dtype}")
    wanted = tuple(m if n is None else n for n, m in zip(lengths, x.shape, strict=False))
    if not x.size or (lengths and (len(lengths) != x.ndim or wanted != x.shape)):
        shape = ", ".join("any" if n is None else str(n) for n in lengths)
        raise ValueError(f"{name} must hold numbers of shape ({shape}), got shape {x.shape}")
    require(not finite or np.isfinite(x).all(), name, x, "finite")
    return x


def entries(name: str, given: Iterable, parts: int) -> list[tuple]:
    """Entries such as (label, values, colour), each of so many parts."""
    whole = [*given]
    for entry in whole:
        fits = isinstance(entry, tuple | list) and len(entry) == parts
        require(fits, name, type(entry).__name__, f"entries of {parts} parts each")
    return whole


def _fits(function: Callable, signature: inspect.Signature) -> dict[str, Callable[[Any], bool]]:
    """Whether a value fits, for every annotated argument."""
    from beartype.door import is_bearable
    from beartype.vale import Is

    several = Annotated[Iterable, Is[_is_several]]
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


def _words(function: Callable, name: str, signature: inspect.Signature) -> str:
    """The annotation; of a class of this package also the chapter that has it."""
    hint = typing.get_type_hints(function)[name]
    chapter = ".".join(getattr(hint, "__module__", "").split(".")[:2])
    ours = inspect.isclass(hint) and chapter.startswith("flowrob.")
    return f"a {chapter}.{hint.__name__}" if ours else signature.parameters[name].annotation


def _is_number(value: Any) -> bool:
    if getattr(value, "ndim", 1) == 0 and (not torch.is_tensor(value) or _is_dense(value)):
        value = value.item()
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_dense(value: torch.Tensor) -> bool:
    return value.layout == torch.strided and not value.is_meta and not value.is_quantized


def _is_several(value: Any) -> bool:
    return not isinstance(value, str | bytes) and getattr(value, "ndim", 1) > 0
