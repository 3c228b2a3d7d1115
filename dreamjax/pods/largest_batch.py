"""The largest batch that fits a chip, found by compiling.

What a step holds at once grows almost evenly with its batch: two attempts give a line, the line a guess, and each
guess is compiled. A program that fits only because the compiler computes parts of it twice is counted as one that does
not: what is to be computed again is the config's to say (`remat`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.pods import ahead

REMATERIALISED = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+\.remat[\w.\-]* = ", re.MULTILINE)  # as XLA names its copies
ATTEMPTS = 12
NEAR = 64  # of so many examples, one more or less is not worth another compilation


@dataclass(frozen=True)
class Attempt:
    """`peak`: bytes held at once; None where the compiler did not say. `twice`: instructions it computes again."""

    rows: int  # a device
    peak: float | None
    twice: int
    compiled: Any  # None where it does not fit

    @property
    def fits(self) -> bool:
        return self.compiled is not None and not self.twice


def attempt(rows: int, compile_of: Callable[[int], Any]) -> Attempt:
    """The step of so many rows a device, compiled."""
    try:
        compiled = compile_of(rows)
    except ahead.DoesNotFit as problem:
        return Attempt(rows, problem.used, 0, None)
    return Attempt(rows, ahead.memory(compiled)["peak"], twice(compiled.as_text()), compiled)


def twice(text: str) -> int:
    """How many instructions of a compiled program compute again what memory had no room to keep."""
    return len(REMATERIALISED.findall(text))


def largest(compile_of: Callable[[int], Any], usable: float, unit: int = 1) -> Attempt:
    """The largest multiple of `unit` rows a device whose step fits, to one in `NEAR`; one `unit` more would not, by the
    line or by trial.

    `compile_of(rows)` compiles, or raises `ahead.DoesNotFit`. Raises UserError where not even `unit` fits.
    """
    tried = [attempt(unit, compile_of)]
    if not tried[0].fits:
        raise UserError(
            f"the step does not fit a chip with {unit} example{'s' if unit > 1 else ''} a device, the fewest there "
            "can be: more fsdp, or more remat"
        )
    while len(tried) < ATTEMPTS:
        best = _best(tried)
        guess, over = _guess(tried, usable), min((one.rows for one in tried if not one.fits), default=None)
        if over is not None and guess >= over:  # the line is wrong
            guess = (best.rows + over) // 2
        guess = guess // unit * unit
        if guess <= best.rows or (over is not None and over - best.rows <= max(unit, best.rows // NEAR)):
            return best
        tried.append(attempt(guess, compile_of))
        log.info("%d examples a device: %s", guess, "fits" if tried[-1].fits else "does not fit")
    return _best(tried)


def _best(tried: list[Attempt]) -> Attempt:
    return max((one for one in tried if one.fits), key=lambda one: one.rows)


def _guess(tried: list[Attempt], usable: float) -> int:
    """The rows at which the line through the two largest attempts reaches what is usable."""
    known = sorted((one.rows, one.peak) for one in tried if one.peak is not None and not one.twice)
    if len(known) < 2:
        return 2 * _best(tried).rows
    (rows, peak), (more, higher) = known[-2:]
    slope = (higher - peak) / (more - rows)
    return rows + int((usable - peak) // slope) if slope > 0 else 2 * _best(tried).rows
