"""The largest batch that fits: found in few attempts, never by a program that computes parts of itself twice."""

import types

import jax
import jax.numpy as jnp
import pytest

from dreamjax.errors import UserError
from dreamjax.pods import ahead, plan

PLAIN = "ENTRY %main {\n  %fusion.1 = f32[8]{0} fusion(%a)\n}\n"
TWICE = "ENTRY %main {\n  %fusion.1 = f32[8]{0} fusion(%a)\n  ROOT %fusion.1.remat2 = f32[8]{0} fusion(%a)\n}\n"


class Compiler:
    """A chip of 1,000 bytes; `twice_from`: so many rows fit only by computing again; `told`: what is used is said."""

    def __init__(self, held, twice_from=10**9, told=True):
        self.held, self.twice_from, self.told, self.asked = held, twice_from, told, []

    def __call__(self, rows):
        self.asked.append(rows)
        used = self.held(rows)
        if used > 1000 and rows < self.twice_from:
            raise ahead.DoesNotFit("too much", used if self.told else None)
        stats = types.SimpleNamespace(
            argument_size_in_bytes=0,
            output_size_in_bytes=0,
            alias_size_in_bytes=0,
            temp_size_in_bytes=0,
            generated_code_size_in_bytes=0,
            peak_memory_in_bytes=min(used, 1000),
        )
        text = TWICE if rows >= self.twice_from else PLAIN
        return types.SimpleNamespace(memory_analysis=lambda: stats, as_text=lambda: text)


@pytest.mark.parametrize(
    ("held", "unit", "expected"),
    [
        (lambda n: 200 + 30 * n, 1, 26),
        (lambda n: 200 + 30 * n, 4, 24),  # whole microbatches
        (lambda n: 200 + 30 * n + (40 if n > 8 else 0), 1, 25),  # not quite a line
        (lambda n: 990 + n, 1, 10),
        (lambda n: 999 + 0.4 * n, 1, 2),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_the_largest_is_found_in_few_attempts(held, unit, expected, told):
    compiler = Compiler(held, told=told)
    assert ahead.largest(compiler, 1000, unit).rows == expected
    assert len(compiler.asked) <= 7
    assert len(set(compiler.asked)) == len(compiler.asked)


@pytest.mark.parametrize("told", [True, False])
def test_finds_nearly_the_largest_batch_when_memory_is_not_linear(told):
    compiler = Compiler(lambda n: 100 + n**1.5, told=told)
    assert 90 <= ahead.largest(compiler, 1000).rows <= 93
    assert len(compiler.asked) <= 12


def test_what_fits_by_computing_again_does_not_count():
    """XLA makes 27 and more rows fit; 26 do without."""
    compiler = Compiler(lambda n: 200 + 30 * n, twice_from=27)
    assert ahead.largest(compiler, 1000).rows == 26
    assert ahead.twice(TWICE) == 1
    assert ahead.twice(PLAIN) == 0


def test_reports_when_not_one_example_fits():
    with pytest.raises(UserError, match="does not fit a chip with 4 examples a device, the fewest there can be"):
        ahead.largest(Compiler(lambda n: 1001.0), 1000, 4)


def test_loops_of_the_model_are_those_of_its_scans():
    """Nested ones and those of a gradient; a loop of one trip is none."""

    def step(x):
        def inner(carry, _):
            return jnp.sin(carry), None

        def outer(carry, _):
            return jax.lax.scan(inner, carry, None, length=3)[0] + 1, None

        def loss(x):
            return jax.lax.scan(outer, x, None, length=5)[0] + jax.lax.scan(inner, x, None, length=1)[0]

        return jax.grad(loss)(x)

    assert sorted(ahead.loops(jax.jit(step).trace(1.0))) == [3, 3, 5, 5]
    assert plan.strange([5, 3, 5], [3, 3, 5, 5]) == []  # one was unrolled
    assert plan.strange([5, 5, 5, 1], [3, 3, 5, 5]) == [5]
    assert plan.strange([None, 3], [3]) == [None]
