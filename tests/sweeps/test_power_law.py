"""Power laws: an exponent that was put in comes out, its interval covers it, a floor shows where a curve bends."""

import numpy as np
import pytest

from dreamjax.sweeps import power_law

SIZES = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


def errors(b, floor=0.0, seeds=3, people=8, spread=0.1, noise=0.0, run=0.0, seed=0):
    """People differ by a factor, which all sizes share; `noise` is each number's own, `run` that of each run."""
    rng = np.random.default_rng(seed)
    person = np.exp(spread * rng.standard_normal(people))
    own = np.exp(noise * rng.standard_normal((len(SIZES), seeds, people)))
    runs = np.exp(run * rng.standard_normal((len(SIZES), seeds, 1)))
    return (floor + (1 - floor) * SIZES[:, None, None] ** -b) * person * own * runs


def test_the_exponent_is_found():
    """Exactly, where people differ by a factor alone; a floor is then none."""
    law = power_law.fit(SIZES, errors(0.3))
    assert law.exponent.estimate == pytest.approx(0.3, abs=1e-9)
    assert law.residual < 1e-9
    assert "a floor is not identified" in law.says()


def test_a_floor_is_found_where_the_curve_bends():
    law = power_law.fit(SIZES, errors(0.8, floor=0.4, noise=0.005))
    b, floor = law.floored
    assert b.estimate == pytest.approx(0.8, abs=0.1)
    assert b.low <= 0.8 <= b.high
    assert floor.estimate == pytest.approx(0.4, abs=0.08)
    assert law.residual > 0.02
    assert "with a floor of" in law.says()


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("kind", ["noise", "run"])
def test_the_interval_covers(kind, seeds):
    """Of 200 sweeps in which numbers, or runs, err, the exponent lies in 95 % of the intervals, and in few less."""
    inside = 0
    for seed in range(200):
        law = power_law.fit(SIZES[:3], errors(0.3, seeds=seeds, people=12, seed=seed, **{kind: 0.05})[:3])
        inside += law.exponent.low <= 0.3 <= law.exponent.high
    assert 178 <= inside <= 200


def test_of_one_number_no_interval_is_known():
    law = power_law.fit(SIZES, errors(0.3, seeds=1, people=1))
    assert "no interval known" in law.says()
    assert "nan" not in law.says()


def test_points_are_dealt_by_the_other_axes():
    """A law for each of them; names are sized by their operations, and two sizes make no law."""
    tables, values, flops = {}, {}, {}
    for kind in ("a", "b"):
        for i, name in enumerate(("small", "middle", "large")):
            point = f"{kind} {name}"
            tables[point] = 1 - errors(0.2 if kind == "a" else 0.4)[i]
            values[point], flops[point] = {"size": name, "kind": kind}, SIZES[i] * 10
    laws = {one.where: one for one in power_law.laws("size", tables, values, flops)}
    assert laws["kind=a"].law.exponent.estimate == pytest.approx(0.2)
    assert laws["kind=b"].law.exponent.estimate == pytest.approx(0.4)
    assert laws["kind=a"].axis == power_law.OPERATIONS
    assert laws["kind=a"].sizes == (10, 20, 40)
    assert laws["kind=a"].as_json()["exponent"]["estimate"] == pytest.approx(0.2)
    few = [name for name in tables if "large" not in name]
    assert power_law.laws("size", {name: tables[name] for name in few}, values, flops) == []


def test_what_no_law_fits_is_refused():
    with pytest.raises(ValueError, match="at least 3 positive sizes"):
        power_law.fit(SIZES[:2], errors(0.3)[:2])
    with pytest.raises(ValueError, match="of positive errors"):
        power_law.fit(SIZES, errors(0.3) - 2)
