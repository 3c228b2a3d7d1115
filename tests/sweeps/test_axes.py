"""What a sweep's axes expand to, and what they refuse."""

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.sweeps import axes


def read(*entries):
    return axes.read(entries, "sweep.py")


def test_a_grid_has_every_combination_and_the_last_axis_varies_fastest():
    found = read(axes.values("mask.ratio", 0.25, 0.75), axes.values("mask.kind", "random", "block"))
    assert axes.grid(found) == [
        {"mask.ratio": ratio, "mask.kind": kind} for ratio in ("0.25", "0.75") for kind in ("random", "block")
    ]
    assert found[0].setting("0.25") == {"mask.ratio": 0.25}


def test_an_axis_may_depend_on_another():
    found = read(
        axes.values("mask.kind", "random", "block"), axes.values("mask.span", 8, 32, when={"mask.kind": "block"})
    )
    assert axes.grid(found) == [
        {"mask.kind": "random"},
        {"mask.kind": "block", "mask.span": "8"},
        {"mask.kind": "block", "mask.span": "32"},
    ]


def test_rows_set_several_keys():
    [found] = read(axes.rows("size", small={"model.dim": 96}, large={"model.dim": 192, "model.depth": 4}))
    assert found.keys == ["model.depth", "model.dim"]
    assert found.setting("large") == {"model.dim": 192, "model.depth": 4}


def test_spaced_by_hand():
    assert [label for label, _ in axes.spaced("a", 1e-4, 1e-2, 3, log=True)["choices"]] == ["0.0001", "0.001", "0.01"]
    assert [row["a"] for _, row in axes.spaced("a", 0.1, 0.9, 3)["choices"]] == [0.1, 0.5, 0.9]


def test_draws_are_spread_over_the_logarithm_and_a_longer_sweep_begins_as_a_shorter_one():
    found = read(axes.between("lr", 1e-5, 1e-1, log=True), axes.between("depth", 1, 4, whole=True))
    drawn = axes.random(found, 400, seed=3)
    rates = np.log10([one["lr"] for one in drawn])
    assert np.histogram(rates, bins=4, range=(-5, -1))[0].min() > 70  # 100 each
    assert {one["depth"] for one in drawn} == {1, 2, 3, 4}
    assert axes.random(found, 5, seed=3) == drawn[:5]
    assert axes.random(found, 5, seed=4) != drawn[:5]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([axes.values("mask.ratio")], "axis mask.ratio is empty; give it at least one value"),
        ([axes.values("a", 1, 1)], "axis a has a value twice"),
        ([axes.values("a", 1), axes.values("a", 2)], "there are two axes a"),
        ([axes.values("a", 1, when={"b": 2})], "axis a depends on b, which is not an axis before it"),
        ([axes.between("a", 2, 1)], "axis a goes from 2 to 1; give a smaller and a larger number"),
        (
            [axes.between("a", 0, 1, log=True)],
            "axis a goes from 0 to 1; give a smaller and a larger number, both positive",
        ),
        ([{"name": "a"}], "an axis is made by sweeps.axes"),
        (["mask.ratio"], "an axis is made by sweeps.axes"),
        ([axes.between("a", "1", 2)], "axis a goes from '1' to 2, but its ends must be numbers"),
    ],
)
def test_rejects_invalid_axis(entries, says):
    with pytest.raises(UserError, match=says):
        read(*entries)


def test_list_takes_the_values_of_all_axes_together():
    found = read(axes.values("mask.ratio", 0.25, 0.75), axes.values("optim.weight_decay", 0.1, 0.2))
    assert axes.listed(found) == [
        {"mask.ratio": "0.25", "optim.weight_decay": "0.1"},
        {"mask.ratio": "0.75", "optim.weight_decay": "0.2"},
    ]
    with pytest.raises(UserError, match="axes of as many values each; these have: a 1, b 2"):
        axes.listed(read(axes.values("a", 1), axes.values("b", 1, 2)))


@pytest.mark.parametrize("combine", [axes.grid, axes.listed])
def test_rejects_drawn_axis_in_grid_and_list(combine):
    with pytest.raises(UserError, match="axis a is drawn from a range"):
        combine(read(axes.between("a", 1, 2)))
