"""The range of a step's time: what bounds it from below, and what adds up at its upper end."""

import pytest

from dreamjax.pods.roofline import Times

PARTS = {"matrix": 10.0, "memory": 17.0, "links": {"fsdp": 30.0, "data": 2.0}, "network": 0.0}


@pytest.mark.parametrize(
    ("more", "low", "high"),
    [
        ({"computing": 58.0}, 58.0, 58.0 + 32.0),  # hidden behind instructions, which take what the compiler expects
        ({"computing": 58.0, "network": 70.0}, 70.0, 58.0 + 32.0 + 70.0),
        ({"computing": 58.0, "hurried": True}, 32.0, 58.0 + 32.0),  # another program would run, and faster
        ({"computing": 8.0}, 32.0, 10.0 + 32.0),  # no faster than the matrix units
        ({"computing": None}, 32.0, 10.0 + 17.0 + 32.0),
    ],
)
def test_a_step_takes_from_all_overlapped_to_nothing(more, low, high):
    found = Times(**PARTS | more)
    assert (found.low, found.high) == (low, high)
    assert found.as_json()["crossing"] == 32.0 + found.network
