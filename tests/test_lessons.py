"""Predictions, checks and exercises: what they print, when they refuse, and what a guess gets."""

from __future__ import annotations

import builtins
import math

import pytest
import torch

import flowrob
from flowrob import lessons
from flowrob.lessons import CheckFailed, calibration, check, grade, outcome, predict, verdicts

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(autouse=True)
def nothing_predicted(monkeypatch):
    monkeypatch.setattr(lessons, "_PREDICTIONS", {})


def printed(capsys) -> str:
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.0, 2, "1.0"),
        (0.0996, 2, "0.10"),
        (99.6, 2, "100"),
        (999_999.0, 2, "1.0 x 10^6"),
        (-0.00012, 2, "-0.00012"),
        (0.0, 2, "0"),
        (7, 1, "7"),
        (10**7, 2, "1.0 x 10^7"),
        (math.inf, 2, "inf"),
        (torch.tensor(3.14159), 3, "3.14"),
    ],
)
def test_numbers_are_rounded_to_significant_digits(value, digits, text):
    assert lessons.rounded(value, digits) == text


def test_magnitudes_in_words():
    assert lessons.times_less_probable(-1.5, 3072) == "10^1387 times more probable"
    assert lessons.times_less_probable(1 / 3072, 3072) == "2.0 times less probable"


def test_a_prediction_is_told_how_far_off_it_was(capsys):
    asked = predict("growth", "By how much?", options=[2, 10, 100])
    outcome("growth", 222.9)
    assert printed(capsys) == "You did not predict. The answer: 220."
    asked.say(10, "certain")
    outcome("growth", 222.9)
    assert printed(capsys) == "You said 10, certain. The answer: 220. You were 22 times too low."
    outcome("growth", 1.0)
    assert "10 times too high" in printed(capsys)
    asked.say(100)
    outcome("growth", 222.9)
    assert printed(capsys).endswith("You were right.")


def test_words_are_right_or_another(capsys):
    predict("humps", "How many?", options=["one", "two"]).say("one")
    outcome("humps", "two")
    assert printed(capsys) == "You said one, a guess. The answer: two. So it was another one."
    predict("humps", "How many?", options=["one", "two"])  # the cell once more: the answer stays
    outcome("humps", "one")
    assert printed(capsys).endswith("You were right.")


def test_a_reader_s_calibration(capsys):
    calibration()
    assert "none of the 0" in printed(capsys)
    for k, (option, sure) in enumerate([("a", "certain"), ("b", "certain"), ("a", "a guess")]):
        predict(str(k), "Which?", options=["a", "b"]).say(option, sure)
        outcome(str(k), "a")
    predict("open", "Which?", options=["a", "b"])
    outcome("open", "b")
    capsys.readouterr()
    calibration()
    lines = printed(capsys).splitlines()
    assert lines[0] == "You made 3 of 4 predictions; 2 were right, by guessing alone 1.5 would be."
    assert lines[1:] == ["  certain: 1 of 2 right; calibrated is 1.9"]


def test_predictions_refuse_early():
    with pytest.raises(ValueError, match="two or more"):
        predict("a", "Which?", options=["one"])
    with pytest.raises(ValueError, match="all different"):
        predict("a", "Which?", options=["one", "one"])
    asked = predict("a", "Which?", options=["one", "two"])
    with pytest.raises(ValueError, match="'three' is none"):
        asked.say("three")
    with pytest.raises(ValueError, match="sure='very'"):
        asked.say("one", "very")
    with pytest.raises(ValueError, match="got 'three'"):
        outcome("a", "three")
    with pytest.raises(LookupError, match="no prediction of name 'b'"):
        outcome("b", "one")


def test_a_prediction_has_buttons_and_the_same_in_words():
    asked = predict("a", "Which?", options=["one", "two"])
    bundle = asked._repr_mimebundle_()
    assert bundle["text/plain"] == "Your prediction: Which?\n  ( ) one\n  ( ) two"
    assert VIEW in bundle
    _, radio, sure = asked._buttons().children
    assert radio.value is None
    radio.value, sure.value = "two", "certain"
    assert (asked.said, asked.sure) == ("two", "certain")
    assert "(x) two" in repr(asked)


def test_without_ipywidgets_there_are_words(monkeypatch):
    real = builtins.__import__

    def blocked(name, *args, **kwargs):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    assert set(predict("a", "Which?", options=[1, 2])._repr_mimebundle_()) == {"text/plain"}


@pytest.mark.parametrize(
    ("values", "expected", "text"),
    [
        ((3.14159,), {"at_least": 3}, "It is 3.1. Expected: at least 3."),
        ((2e-13,), {"at_most": 1e-9}, "It is less than 1e-09. Expected: at most 1e-09."),
        ((0,), {"at_most": 6}, "It is 0. Expected: at most 6."),
        ((4,), {"equals": 4}, "It is 4. Expected: exactly 4."),
        (
            (0.5,),
            {"at_least": 0.1, "at_most": 1},
            "It is 0.50. Expected: at least 0.1 and at most 1.",
        ),
        ((torch.tensor(7.0),), {"at_least": 1, "digits": 1}, "It is 7. Expected: at least 1."),
    ],
)
def test_a_check_prints_its_number_and_what_was_expected(capsys, values, expected, text):
    check("it is {}", *values, **expected)
    assert printed(capsys) == text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0,), {"at_least": 2}),
        ((3.0,), {"at_most": 2}),
        ((1.0,), {"at_least": 0, "at_most": 0.5}),
        ((4,), {"equals": 5}),
        ((math.nan,), {"at_least": 0}),
        ((math.nan,), {"at_most": 0}),
    ],
)
def test_a_check_that_fails_raises(values, expected):
    with pytest.raises(CheckFailed, match="It does not hold"):
        check("it is {}", *values, **expected)


def test_a_check_compares_all_values_with_the_first():
    check("{} and {}", 1.0, 1.05, within=0.1)
    for other in (1.2, 0.8, math.nan):
        with pytest.raises(CheckFailed):
            check("{} and {}", 1.0, other, within=0.1)


@pytest.mark.parametrize("gap", [2.3e-4, 3.1e-4, 9e-3])
def test_of_rounding_noise_only_the_bound_is_printed(capsys, gap: float):
    check("float32 is {} off, of {}", gap, 255.0, at_most=0.01, noise=True)
    assert capsys.readouterr().out == (
        "Float32 is less than 0.01 off, of 260. Expected: at most 0.01.\n"
    )


def test_rounding_noise_above_its_bound_fails_and_needs_one():
    with pytest.raises(CheckFailed, match=r"0\.02"):
        check("float32 is {} off", 0.02, at_most=0.01, noise=True)
    with pytest.raises(CheckFailed):
        check("float32 is {} off", math.nan, at_most=0.01, noise=True)
    with pytest.raises(ValueError, match="no bound"):
        check("float32 is {} off", 0.02, at_least=0.01, noise=True)


def test_a_check_without_expectation_or_number_is_refused():
    with pytest.raises(ValueError, match="nothing is expected"):
        check("it is {}", 1.0)
    with pytest.raises(ValueError, match="1 places for 0 values"):
        check("it is {}", at_least=1)


def test_an_exercise_says_too_high_or_too_low(capsys):
    for given, text in [
        (None, "Your turn: put your answer into the cell above, run it, then run this one."),
        (0.3, "Too high."),
        (0.2, "Too low."),
        (-100, "Too low."),
        (0.25, "Right: 0.250 nats."),
        (math.nan, "That is not a number."),
        (True, "That cannot be compared: True is not a number"),
    ]:
        grade(given, 0.25, unit="nats")
        assert printed(capsys) == text
    grade("a lot", 0.25)
    assert printed(capsys).startswith("That cannot be compared")


def test_an_exercise_tries_functions_and_tensors(capsys):
    grade(lambda n: n**2, lambda n: n**3, at=[(1,), (2,)])
    assert printed(capsys) == "Too low at 2."
    grade(lambda n: n**3, lambda n: n**3, at=[(1,), (2,)])
    assert printed(capsys) == "Right."
    grade(torch.ones(2, 2), torch.ones(4))
    assert printed(capsys) == "Right."
    grade(torch.ones(3), torch.ones(4))
    assert "shape is (3,), not (4,)" in printed(capsys)
    grade(torch.tensor([1.0, math.nan]), torch.ones(2))
    assert printed(capsys) == "That is not a number."


def test_the_closing_table_knows_its_verdicts():
    table = verdicts([("“a”", "3.1", "2 nats", "agrees")]).data
    assert table.splitlines()[-1] == "| “a” | 3.1 | 2 nats | agrees |"
    with pytest.raises(ValueError, match="'yes' is no verdict"):
        verdicts([("“a”", "3.1", "2 nats", "yes")])


def test_the_scale_is_said_and_grows_with_the_device(capsys):
    assert flowrob.scale("cpu") == {"crops": 32, "steps": 20, "pixels": 16, "images": "photos"}
    assert printed(capsys).startswith("On a CPU: 32 photographs, 20 steps an attack, training at")


@pytest.mark.parametrize("there", [True, False])
def test_on_a_gpu_cifar10_is_attacked_where_its_images_are(capsys, monkeypatch, tmp_path, there):
    asked = []

    def load(name, **options):
        asked.append((name, options))
        if not there:
            raise FileNotFoundError(name)

    monkeypatch.setattr(flowrob.data, "load", load)
    size = flowrob.scale(torch.device("cuda", 1))
    images = "cifar10" if there else "photos"
    assert size == {"crops": 1000, "steps": 200, "pixels": 32, "images": images}
    assert asked == [("cifar10", {"limit": 1})]  # and never a download
    told = printed(capsys)
    assert "up to 1,000" in told and ("CIFAR-10 is not on this machine" in told) is not there
    assert "other numbers appear" in told


@pytest.mark.parametrize("sentence", ["eps = 1: {}", "u_min costs {}"])
def test_a_sentence_that_opens_with_a_formula_keeps_its_letter(capsys, sentence):
    check(sentence, 1, equals=1)
    assert printed(capsys).startswith(sentence.format(1))
