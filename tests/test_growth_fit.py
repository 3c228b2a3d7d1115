"""benchmarks/growth.py recovers the exponents of times that are known; the benchmark itself runs in test_benchmarks."""

from pathlib import Path

import numpy as np
import pytest

SIZES = (1, 2, 4, 8, 16)


@pytest.fixture
def growth(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import growth

    return growth


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("fixed", [0.0, 3.0])
def test_a_fixed_cost_does_not_hide_the_growth(growth, exponent, fixed):
    seconds = [fixed + 0.5 * size**exponent for size in SIZES]
    assert growth.fit(SIZES, seconds) == pytest.approx((exponent, fixed), abs=0.01)


def test_the_range_is_of_rounds_and_holds_the_exponent(growth):
    """Other work on the machine only adds seconds; times that do not grow have no exponent."""
    rng = np.random.default_rng(0)
    rounds = [{size: (1 + 2 * size) * (1 + 0.1 * rng.exponential()) for size in SIZES} for _ in range(7)]
    law = growth.law(SIZES, rounds)
    low, high = law["range"]
    assert low <= law["exponent"] <= high
    assert 0.7 < low < 1.1
    assert 0.9 < high < 1.3
    assert growth.law(SIZES, [{size: 1 + 0.001 * size for size in SIZES}])["exponent"] is None


def test_names_the_axes_that_grow_faster_than_their_size(growth):
    work = growth.Axis("squares, size", SIZES, SIZES, {"dreamjax": None, "peer": None}, why="pairs")
    one = {"dreamjax": growth.law(SIZES, [{size: float(size**2) for size in SIZES}])}
    one |= {"what": work.what, "peer": growth.law(SIZES, [{size: float(size) for size in SIZES}])}
    assert growth.reasons({"pairs": one, "peer": one | {"dreamjax": one["peer"]}}, {"pairs": work, "peer": work}) == [
        "pairs grows faster than its size: pairs"
    ]
    row = growth.table({"pairs": one}, {"pairs": work})[-1]
    assert row == "| squares, size | 1 to 16 | 1 to 2.6e+02 | 2.00 (2.00 to 2.00) |  | 1 to 16 | 1.00 (1.00 to 1.00) |"
