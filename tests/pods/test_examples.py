"""launch/ shows what the launchers render; `make golden` rewrites it."""

import pytest

from tests import golden


@pytest.mark.parametrize("name", golden.LAUNCHED)
def test_the_example_is_what_is_rendered(name):
    assert golden.rendered(name) == (golden.EXAMPLES / name).read_text(encoding="utf-8"), "make golden rewrites it"
