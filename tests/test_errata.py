"""docs/errata.md: each row asserted by a test of its own, and the file up to date."""

import math
import re

import pytest
from scripts import ROOT, load_script

DOCS = ROOT / "docs"
errata = load_script("docs/build_errata.py")


def measure(number):
    return errata.ENTRIES[number - 1].measure()


def test_slip_01_the_constant_needs_its_sign_and_the_covariance_one_n():
    m = measure(1)
    assert m["area"] == pytest.approx(1, abs=1e-9)
    assert m["printed"] == pytest.approx(2 * math.pi, abs=1e-8)
    assert abs(m["once"] - 4) < 4 * 4 * math.sqrt(2 / 1000)  # 4 standard errors
    assert m["twice"] < 0.01


def test_slip_02_c_is_a_vector_and_the_ball_is_closed():
    m = measure(2)
    assert m["norm"] == pytest.approx(1, abs=1e-12)
    assert m["numbers"] == 9
    assert m["a"] < m["b"] < m["c"] < m["edge"]  # no maximum in the open ball
    assert m["edge"] - m["c"] < 1e-3


def test_slip_03_the_printed_system_has_no_solution_in_the_hard_case():
    m = measure(3)
    assert m["optimum"] == pytest.approx(13 / 24, rel=1e-12)
    assert m["root"] == pytest.approx(0.25, rel=1e-9)
    assert m["slack"] == pytest.approx(-0.5, rel=1e-9)  # the system asks for >= 0
    assert m["excluded"] == pytest.approx(3 / 8, rel=1e-9)
    # the other root of c_2^2 / (1 - 2 eta lam_2)^2 = eps^2 is eta = 0, excluded as well
    assert 1 / (8 * 0.0 - 1) ** 2 == 1 and 2 * 0.0 * 1 - 1 < 0


def test_slip_04_the_sign_on_a_sphere():
    m = measure(4)
    assert m["ratio"] == pytest.approx(-3.0, rel=1e-12)  # -|x - mu| / eps
    assert m["drop"] == pytest.approx(3.5, rel=1e-12)
    assert m["printed"] == pytest.approx(-2.5, rel=1e-12)
    assert m["equation_3"] == pytest.approx(m["drop"], rel=1e-12)


def test_slip_05_the_optimum_is_an_eigenvector_with_a_free_sign():
    m = measure(5)
    assert m["plus"] == pytest.approx(0.5, rel=1e-12)
    assert m["minus"] == pytest.approx(m["plus"], rel=1e-12)
    assert m["other"] == pytest.approx(0.125, rel=1e-12)


def test_slip_06_alpha_needs_sigma():
    m = measure(6)
    assert m["error"] < 2e-4
    assert abs(m["sampled"] - m["holds"]) < 4 * m["error"]
    assert abs(m["sampled"] - m["printed"]) > 1000 * m["error"]


def test_slip_07_growth_by_procedure():
    m = measure(7)
    alpha = (2 * math.sqrt(2) * math.gamma(5.5) / math.gamma(5) + 1) / 10
    far = (20 * math.sqrt(2) * math.gamma(5.5) / math.gamma(5) + 100) / 10
    assert m["a"] == pytest.approx((1 + alpha) ** 10, rel=1e-12)
    assert m["c"] == pytest.approx(1 + far, rel=1e-12)
    assert m["d"] == pytest.approx(1 + alpha, rel=1e-12)
    assert m["d"] < m["b"] < m["c"] < m["a"] / 10


def test_slip_08_the_rounds_of_theorem_3_2():
    m = measure(8)
    assert m["a"] <= m["gamma"]
    assert min(m["printed"], m["b"], m["c"], m["d"]) > 5 * m["gamma"]
    assert m["short"] < m["m"]
    assert m["clean"] < 0 and m["rounds"] == 0


def test_slip_09_training_does_defend_against_a_universal_perturbation():
    m = measure(9)
    assert m["clean"] == pytest.approx(0.64 / 0.2, rel=1e-12)
    assert m["one"] == pytest.approx(3 * m["clean"], rel=1e-9)  # the other sign
    assert m["random"] == pytest.approx(0.64 / 1.0, rel=1e-9)  # 0.1 + 0.64: now 0.5 is smallest
    assert m["minimax"] == pytest.approx(0.64 / 1.24, rel=1e-9)
    # the same step: back to the mean's other side on clean data, onwards on data that moved
    assert m["same"] == pytest.approx(-m["clean"], rel=1e-9)
    assert m["same_shifted"] == pytest.approx(m["clean"], rel=1e-9)


def test_slip_10_the_attack_ascends_the_nll():
    m = measure(10)
    assert m["ascent"] == pytest.approx(m["worst"], abs=1e-6)
    assert m["descent"] == pytest.approx(m["best"], abs=1e-6)
    assert m["ascent"] > 0 > m["descent"]


def test_slip_11_the_units_of_figures_4_and_5_cannot_be_told():
    m = measure(11)
    assert m["floor"] == pytest.approx(math.log2(17), rel=1e-12)
    assert m["floor"] > m["printed"] and m["printed_noise"] < 8
    folded = [max(0, shift) for shift in range(-8, 9)]  # a grey level of 0 plus noise, clipped
    shares = [folded.count(level) / 17 for level in set(folded)]
    assert m["black"] == pytest.approx(-sum(s * math.log2(s) for s in shares), rel=1e-12)
    assert m["share"] * m["black"] + (1 - m["share"]) * m["floor"] == pytest.approx(m["printed"])
    assert errata.ENTRIES[10].status == "cannot say"
    # At most 2^(3.2 D) of the 17^D equally likely images can have 2^(-3.2 D) or more each.
    assert m["exponent"] == pytest.approx(3072 * (math.log2(17) - 3.2), rel=1e-12)
    # 5 bits: 17 neighbouring levels fall into bins of 8, at worst as 4 + 8 + 5 of them
    worst = -sum(n / 17 * math.log2(n / 17) for n in (4, 8, 5))
    assert m["five_8"] == pytest.approx(worst, rel=1e-12)
    assert (m["below_five"], m["below_nats"]) == (0, 2) and m["below_eight"] > 6


def test_slip_12_the_simplified_objective_has_the_wrong_sign():
    m = measure(12)
    assert m["taken"] == pytest.approx(0.64 / 4) and m["right"] == pytest.approx(0.64 / 0.2)


def test_slip_13_the_absolute_value_stands_around_the_determinant():
    m = measure(13)
    assert m["outside"] == pytest.approx(7) and m["inside"] == pytest.approx(-5)


def test_slip_14_raised_noise_is_not_on_a_par_with_images():
    m = measure(14)
    assert m["raised_4"] > 3 * m["clean_4"] and m["raised_5"] > 3 * m["clean_5"]


def test_the_file_is_up_to_date():
    written = (DOCS / "errata.md").read_text(encoding="utf-8")
    assert written == errata.render(), "run: python docs/build_errata.py"


def test_every_row_names_a_test_that_exists():
    written = (DOCS / "errata.md").read_text(encoding="utf-8")
    rows = [line for line in written.splitlines() if line.startswith("| ") and "slip_" in line]
    named = [re.search(r"-k (slip_\d\d)`", line)[1] for line in rows]
    assert named == [f"slip_{i:02d}" for i in range(1, len(errata.ENTRIES) + 1)]
    for name in named:
        assert sum(test.startswith(f"test_{name}_") for test in globals()) == 1


def test_every_verdict_is_one_of_five():
    known = {"slip", "disagrees", "cannot say", "slip repaired later in the text"}
    assert {entry.status for entry in errata.ENTRIES} == known


def test_one_entry_can_be_shown_alone(capsys):
    errata.main(["3"])
    shown = capsys.readouterr().out
    assert "13/24" in shown and "'excluded': 0.375" in shown
