"""What a notebook asks of its reader, and what it promises: predictions, checks, exercises.

:func:`predict` asks before a result is shown, :func:`outcome` tells what it was and how far off the
reader was, :func:`calibration` adds up. :func:`check` is a verdict as a sentence: it prints the
number and what was expected of it, and raises where that does not hold. :func:`grade` is the third
rung of an exercise: it says "too high" or "too low". Nothing here waits for the reader: a notebook
runs from end to end without an answer.

Digits. A printed number must be the same in every run, so :func:`check` rounds to ``digits``
significant digits (two; three for closed forms, one for networks trained on the spot), and of a gap
that is mere rounding noise (below 1e-6, or said to be: ``noise=True``) only the bound is printed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from flowrob._checks import checked, require
from flowrob.units import check_number

# How sure a prediction is said to be, and how often such predictions ought to be right.
SURENESS = {"a guess": None, "fairly sure": 0.75, "certain": 0.95}

_PREDICTIONS: dict[str, Prediction] = {}


class CheckFailed(AssertionError):
    """A sentence of a notebook that does not hold."""


@checked
def rounded(value: float, digits: int = 2) -> str:
    """A number in significant digits, as one would write it: no exponent up to a million.

    >>> rounded(4636.2), rounded(0.0316), rounded(2.04e6), rounded(12), rounded(12345.0, 3)
    ('4,600', '0.032', '2.0 x 10^6', '12', '12,300')
    """
    require(digits >= 1, "digits", digits, "at least 1")
    value = getattr(value, "item", lambda: value)()
    if isinstance(value, int) and abs(value) < 10**6:
        return f"{value:,}"
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if not -4 <= power < 6:
        return f"{mantissa} x 10^{power}"
    return f"{float(f'{mantissa}e{exponent}'):,.{max(digits - 1 - power, 0)}f}"


@checked
def times_less_probable(bits_per_dim: float, num_dims: int) -> str:
    """How many times less probable an image has become that costs so many more bits/dim.

    >>> times_less_probable(1.5, 3072), times_less_probable(0.001, 3072)
    ('10^1387 times less probable', '8.4 times less probable')

    Of an exponent from a hundred thousand on, three digits are told:

    >>> times_less_probable(88519.67, 3072)
    '10^81,900,000 times less probable'
    """
    power = float(bits_per_dim) * num_dims * math.log10(2)
    word = "less" if power >= 0 else "more"
    size = f"10^{abs(power):.0f}" if abs(power) >= 3 else rounded(10 ** abs(power))
    if abs(power) >= 1e5:
        size = f"10^{float(f'{abs(power):.2e}'):,.0f}"
    return f"{size} times {word} probable"


# Predictions ---


class Prediction:
    """A question, its options, and what the reader said; radio buttons where there is a kernel.

    Attributes:
        said: the option chosen, ``None`` until then.
        sure: a key of :data:`SURENESS`.
        truth: the option that was right, ``None`` until :func:`outcome`.
    """

    def __init__(self, name: str, question: str, options: Sequence[str | float]) -> None:
        self.name, self.question, self.options = name, question, list(options)
        self.said: str | float | None = None
        self.sure = "a guess"
        self.truth: str | float | None = None

    def say(self, option: str | float, sure: str = "a guess") -> None:
        """Choose an option in code, as the buttons do."""
        if option not in self.options:
            raise ValueError(f"{option!r} is none of the options {self.options}")
        if sure not in SURENESS:
            raise ValueError(f"sure={sure!r}: choose one of {list(SURENESS)}")
        self.said, self.sure = option, sure

    def __repr__(self) -> str:
        lines = [f"Your prediction: {self.question}"]
        marks = ("(x)" if self.said == option else "( )" for option in self.options)
        lines += [f"  {mark} {o}" for mark, o in zip(marks, self.options, strict=True)]
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        try:
            return {**self._buttons()._repr_mimebundle_(), **bundle}
        except ImportError:  # no ipywidgets: the static text, and say()
            return bundle

    def _buttons(self):
        import ipywidgets

        question = ipywidgets.HTML(f"<b>Your prediction.</b> {self.question}")
        wide = {"width": "max-content"}
        options = [(str(option), option) for option in self.options]
        radio = ipywidgets.RadioButtons(options=options, value=self.said, layout=wide)
        sure = ipywidgets.ToggleButtons(
            options=list(SURENESS), value=self.sure, description="My answer is"
        )
        radio.observe(lambda change: setattr(self, "said", change["new"]), names="value")
        sure.observe(lambda change: setattr(self, "sure", change["new"]), names="value")
        return ipywidgets.VBox([question, radio, sure])


@checked
def predict(name: str, question: str, *, options: Sequence[str | float]) -> Prediction:
    """Ask before the result is shown. Returns at once; what was said earlier under ``name`` stays.

    Args:
        name: by which :func:`outcome` finds it.
        question: one sentence.
        options: two or more, different; words, or numbers, of which the nearest will be right.

    Returns:
        A :class:`Prediction`: let it be the last line of its cell.

    Raises:
        ValueError: fewer than two options, or one twice.
    """
    require(all(isinstance(o, str | Real) for o in options), "options", options, "words or numbers")
    if len(options) < 2 or len({*options}) < len(options):
        raise ValueError(f"options={list(options)!r}: two or more, all different, are needed")
    fresh, old = Prediction(name, question, options), _PREDICTIONS.get(name)
    if old is not None and old.said in fresh.options:
        fresh.said, fresh.sure = old.said, old.sure
    _PREDICTIONS[name] = fresh
    return fresh


@checked
def outcome(name: str, truth: str | float, digits: int = 2) -> None:
    """Print what was predicted, what it is, and how far off that was.

    Args:
        name: of a prediction made above.
        truth: one of its options; or the number measured, where the options are numbers.
        digits: significant digits of a number.

    Raises:
        LookupError: no prediction of this name: its cell was not run.
        ValueError: the truth is none of the options.
    """
    if name not in _PREDICTIONS:
        raise LookupError(
            f"no prediction of name {name!r}: run its cell first ({list(_PREDICTIONS)})"
        )
    asked = _PREDICTIONS[name]
    right, is_number = truth, not isinstance(truth, str)
    if is_number and all(not isinstance(option, str) for option in asked.options):
        right = min(asked.options, key=lambda option: abs(_distance(option, truth)))
    elif truth not in asked.options:
        raise ValueError(f"truth must be one of the options {asked.options}, got {truth!r}")
    asked.truth = right
    result = f"The answer: {rounded(truth, digits) if is_number else truth}."
    if asked.said is None:
        print(f"You did not predict. {result}")
    elif asked.said == right:
        print(f"You said {asked.said}, {asked.sure}. {result} You were right.")
    elif is_number and asked.said and truth / asked.said > 0:
        off, word = truth / asked.said, "low" if truth > asked.said else "high"
        factor = rounded(max(off, 1 / off))
        print(f"You said {asked.said}, {asked.sure}. {result} You were {factor} times too {word}.")
    else:
        print(f"You said {asked.said}, {asked.sure}. {result} So it was another one.")


def _distance(option: float, truth: float) -> float:
    """Between positive numbers the logarithm of their ratio, else the difference."""
    return math.log(truth / option) if option > 0 and truth > 0 else truth - option


def calibration() -> None:
    """Print how many predictions were right, and what guessing would have brought.

    Whoever is calibrated is right about as often as they said: 3 in 4 when fairly sure, 19 in 20
    when certain.
    """
    asked = [p for p in _PREDICTIONS.values() if p.truth is not None]
    made = [p for p in asked if p.said is not None]
    if not made:
        print(f"You made none of the {len(asked)} predictions. Next time: commit, then run.")
        return
    chance = sum(1 / len(p.options) for p in made)
    right = sum(p.said == p.truth for p in made)
    print(f"You made {len(made)} of {len(asked)} predictions; {right} were right, ", end="")
    print(f"by guessing alone {chance:.1f} would be.")
    for sure, share in SURENESS.items():
        some = [p for p in made if p.sure == sure]
        if some and share:
            hits = sum(p.said == p.truth for p in some)
            print(f"  {sure}: {hits} of {len(some)} right; calibrated is {share * len(some):.1f}")


# Verdicts as sentences ---


@checked
def check(
    sentence: str,
    *values: float,
    at_least: float | None = None,
    at_most: float | None = None,
    equals: float | None = None,
    within: float | None = None,
    digits: int = 2,
    noise: bool = False,
) -> None:
    """Print a sentence with its numbers and what was expected of them; raise if it fails.

    >>> check("the chosen change costs {} times a random one", 15.27, at_least=10)
    The chosen change costs 15 times a random one. Expected: at least 10.
    >>> check("the formula gives {}, the simulation {}", 0.217, 0.2149, within=0.005, digits=3)
    The formula gives 0.217, the simulation 0.215. Expected: equal within 0.005.
    >>> check("float32 is {} grey levels off", 0.00023, at_most=0.01, noise=True)
    Float32 is less than 0.01 grey levels off. Expected: at most 0.01.

    Args:
        sentence: with one ``{}`` for every value, without a full stop.
        values: numbers, or tensors of one element.
        at_least: bound on the first value, as are ``at_most`` and ``equals``.
        at_most: the other bound; of a first value below 1e-6 only this bound is printed.
        equals: exactly this.
        within: all values lie no further than this from the first.
        digits: significant digits that are printed.
        noise: the first value is rounding noise, or what an iteration that converged still misses:
            no digit of it is the same on another processor, so only ``at_most`` is printed.

    Raises:
        CheckFailed: it does not hold; NaN never does.
        ValueError: placeholders and values do not match, nothing is expected, or noise without a
            bound.
    """
    for value in values:
        if math.prod(getattr(value, "shape", ())) != 1:
            raise ValueError(f"each value must be one number, got shape {tuple(value.shape)}")
    numbers = [getattr(value, "item", lambda value=value: value)() for value in values]
    for number in numbers:
        check_number(value=number)
    if not numbers or sentence.count("{}") != len(numbers):
        raise ValueError(
            f"{sentence!r} has {sentence.count('{}')} places for {len(numbers)} values"
        )
    if noise and at_most is None:
        raise ValueError(f"noise=True without at_most: {sentence!r} has no bound to print")
    first = numbers[0]
    conditions = {
        "at least": (at_least, lambda bound: first >= bound),
        "at most": (at_most, lambda bound: first <= bound),
        "exactly": (equals, lambda bound: first == bound),
        "equal within": (within, lambda gap: all(abs(n - first) <= gap for n in numbers)),
    }
    asked = {
        word: (bound, holds) for word, (bound, holds) in conditions.items() if bound is not None
    }
    if not asked:
        raise ValueError(f"nothing is expected of {sentence!r}")
    texts = [rounded(number, digits) for number in numbers]
    if at_most is not None and (noise or (isinstance(first, float) and abs(first) < 1e-6)):
        texts[0] = f"less than {at_most:g}"
    expected = " and ".join(f"{word} {_bound(bound)}" for word, (bound, _) in asked.items())
    text = sentence.format(*texts)
    if not re.match(r"\w+ =|\w+_", text):  # a formula keeps its letters
        text = text[0].upper() + text[1:]
    text = f"{text}. Expected: {expected}."
    if not all(holds(bound) for bound, holds in asked.values()):
        raise CheckFailed(f"{text} It does not hold: {numbers}")
    print(text)


def _bound(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


@checked
def verdicts(rows: Iterable[tuple[str, str, str, str]]):
    """The closing table: what the paper says, where, what we measured, and the verdict.

    A verdict begins with "agrees", "disagrees", "slip" or "cannot say", or is "our question".

    Raises:
        ValueError: another verdict.
    """
    from IPython.display import Markdown

    from flowrob.evaluation.table import pipe_table

    rows = list(rows)
    for row in rows:
        if (
            not isinstance(row, tuple | list)
            or len(row) != 4
            or not all(isinstance(cell, str) for cell in row)
        ):
            raise ValueError(f"rows must hold four texts each, got {row!r}")
        if not row[3].startswith(("agrees", "disagrees", "slip", "cannot say", "our question")):
            raise ValueError(f"{row[3]!r} is no verdict")
    return Markdown(pipe_table(["the paper says", "where", "we measured", "same?"], rows))


# Exercises ---


@checked
def grade(
    given: Any, truth: Any, *, at: Sequence[tuple] = ((),), within: float = 1e-3, unit: str = ""
) -> None:
    """Say whether an answer is right, too high or too low; the truth is recomputed by the caller.

    Args:
        given: the reader's number, tensor or function; ``None``: not answered yet.
        truth: the number or tensor, or the function, evaluated at the same arguments.
        at: the arguments to try functions at, one tuple each.
        within: how far off it may be, relative to the greatest absolute value of the truth.
        unit: written after a right number.
    """
    if given is None:
        print("Your turn: put your answer into the cell above, run it, then run this one.")
        return
    for arguments in at:
        try:
            expected = truth(*arguments) if callable(truth) else truth
        except TypeError as error:
            raise TypeError(f"truth cannot be evaluated at {arguments}: {error}") from error
        try:
            answer = given(*arguments) if callable(given) else given
            gaps, scale = _gaps(answer, expected)
        except (TypeError, ValueError, RuntimeError) as error:
            print(f"That cannot be compared: {error}")
            return
        worst = max(gaps, key=lambda gap: math.inf if math.isnan(gap) else abs(gap))
        where = f" at {', '.join(map(str, arguments))}" if arguments and _short(arguments) else ""
        if math.isnan(worst):
            print(f"That is not a number{where}.")
            return
        if abs(worst) > within * scale:
            print(f"Too {'high' if worst > 0 else 'low'}{where}.")
            return
    value = (
        "" if callable(given) or len(gaps) > 1 else f" {rounded(_number(given), 3)} {unit}".rstrip()
    )
    print(f"Right:{value}." if value else "Right.")


def _gaps(answer: Any, expected: Any) -> tuple[list[float], float]:
    """answer - expected, flat, and the scale to judge it by."""
    if isinstance(answer, bool):
        raise TypeError(f"{answer} is not a number")
    shapes = [tuple(getattr(value, "shape", ())) for value in (answer, expected)]
    if math.prod(shapes[0]) != math.prod(shapes[1]):
        raise ValueError(f"its shape is {shapes[0]}, not {shapes[1]}")
    flat = [_flat(value) for value in (answer, expected)]
    scale = max(map(abs, flat[1])) or 1.0
    return [a - b for a, b in zip(*flat, strict=True)], scale


def _flat(value: Any) -> list[float]:
    return (
        [float(v) for v in value.reshape(-1).tolist()]
        if hasattr(value, "reshape")
        else [float(value)]
    )


def _number(value: Any) -> float:
    return value if isinstance(value, int) else _flat(value)[0]


def _short(arguments: tuple) -> bool:
    return all(isinstance(argument, int | float | str) for argument in arguments)
