"""A step that went wrong (its gradient is no number, or its loss jumps): found on the device, answered by the loop.

On the device such a step leaves parameters, average and optimiser as they were (`training.update`). What follows is the
run's policy: stop, leave the step out, or go back to the last saved step and go on with data not seen yet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.training.metrics import Sums, not_finite
from dreamjax.training.task import PyTree

WATCHED = ("loss", "grad_norm")
KEEP = 0.98  # of the running statistics a step; they look back over about 1 / (1 - KEEP) = 50 steps
SETTLED = 50  # good steps before a jump can be told


@dataclass(frozen=True)
class GuardConfig:
    """What becomes of a bad step.

    `policy`: "stop" ends the run, the last saved step untouched; "skip" leaves the step out; "rollback" restores the
    last saved step and goes on with the batches after the bad one. `spike`: a loss or gradient norm of more than so
    many standard deviations above its running mean is bad too (none: only what is not finite). `most`: bad steps in a
    row, or rollbacks in all, after which the run ends all the same.
    """

    policy: Literal["stop", "skip", "rollback"] = "stop"
    spike: float | None = None
    most: int = 10

    def __post_init__(self) -> None:
        if self.spike is not None and not 0 < self.spike < math.inf:
            raise ValueError(
                f"train.guard.spike is {self.spike}, but it must be positive (none: no spikes are looked for)"
            )
        if self.most < 1:
            raise ValueError(f"train.guard.most is {self.most}, but it must be at least 1")


# -------------------------------------------------------------------------------------------------------- on the device
def statistics(config: GuardConfig) -> dict[str, Any]:
    """`state.guard` before the first step; {} where no spikes are looked for."""
    if config.spike is None:
        return {}
    zero = jnp.zeros((), jnp.float32)
    running = {name: {"mean": zero, "square": zero} for name in WATCHED}
    return {"spike": jnp.float32(config.spike), "steps": zero, **running}


def is_spike(guard: Mapping[str, Any], values: Mapping[str, Array]) -> Bool[Array, ""]:
    """Whether one of `values` lies more than `spike` standard deviations above its running mean."""
    if not guard:
        return jnp.asarray(False)
    above = [values[name] - mean > guard["spike"] * deviation for name, mean, deviation in _moments(guard)]
    return (guard["steps"] >= SETTLED) & jnp.any(jnp.stack(above))


def _moments(guard: Mapping[str, Any]) -> list[tuple[str, Array, Array]]:
    """(name, mean, standard deviation); the weights of the n steps so far add up to 1 - KEEP^n."""
    total = jnp.maximum(1 - KEEP ** guard["steps"], jnp.finfo(jnp.float32).tiny)
    found = []
    for name in WATCHED:
        mean, square = guard[name]["mean"] / total, guard[name]["square"] / total
        found.append((name, mean, jnp.sqrt(jnp.maximum(square - mean**2, 0.0))))
    return found


def updated(guard: Mapping[str, Any], values: Mapping[str, Array], good: Bool[Array, ""]) -> PyTree:
    """The statistics with this step's values, where it was good."""
    if not guard:
        return guard
    new = {"spike": guard["spike"], "steps": guard["steps"] + 1}
    for name in WATCHED:
        old, value = guard[name], values[name]
        new[name] = {
            "mean": KEEP * old["mean"] + (1 - KEEP) * value,
            "square": KEEP * old["square"] + (1 - KEEP) * value**2,
        }
    return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, dict(guard))


# ---------------------------------------------------------------------------------------------------------- in the loop
class BadStep(UserError):
    """A step went wrong, and the run's policy does not go on."""


class RollBack(Exception):
    """Go back to the last saved step, and on with the batches after `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


@dataclass
class Guard:
    """The loop's side: judges each step's metrics, counts. `count()` goes into run.json."""

    config: GuardConfig
    skipped: int = 0
    in_a_row: int = 0
    rollbacks: int = 0

    def count(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "rollbacks": self.rollbacks}

    def told(self) -> dict[str, int]:
        """What is worth a word."""
        return {name: n for name, n in (("skipped", self.skipped), ("rollbacks", self.rollbacks)) if n}

    def check_system(self, sums: Sums) -> None:
        """Raises UserError where spikes are to be looked for by a system that does not."""
        if self.config.spike is not None and "spike" not in sums:
            raise UserError(
                "train.guard.spike is set, but this system's update does not look for spikes; set it to none"
            )

    def restored(self, count: Mapping[str, int]) -> None:
        self.skipped, self.in_a_row, self.rollbacks = (
            count.get(name, 0) for name in ("skipped", "in_a_row", "rollbacks")
        )

    def passes(self, step: int, sums: Sums) -> bool:
        """Whether the step counts; False where it was left out. Raises BadStep or RollBack where the policy says so."""
        reason = why_bad(sums)
        if reason is None:
            self.in_a_row = 0
            return True
        if self.config.policy == "rollback":
            raise self._roll_back(step, reason)
        if self.config.policy == "stop":
            remedy = "lower the learning rate, look at the data, or set train.guard.policy to skip or rollback"
            raise BadStep(f"step {step}: {reason}; training stopped, and what was saved is untouched ({remedy})")
        if _was_taken(sums):
            raise BadStep(f"step {step}: {reason}, and the step was taken all the same; training stopped")
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self.config.most:
            raise BadStep(
                f"step {step}: {reason}, and so it was with {self.in_a_row} steps in a row (train.guard.most); "
                "training stopped, and what was saved is untouched"
            )
        log.warning("step %d: %s; it is left out (%d so far)", step, reason, self.skipped)
        return False

    def _roll_back(self, step: int, reason: str) -> Exception:
        if self.rollbacks >= self.config.most:
            return BadStep(
                f"step {step}: {reason}, and training was taken back {self.rollbacks} times already "
                "(train.guard.most); training stopped, and what was saved is untouched"
            )
        self.rollbacks += 1
        log.warning("step %d: %s; back to the last saved step (%d so far)", step, reason, self.rollbacks)
        return RollBack(step)


def _was_taken(sums: Sums) -> bool:
    """Whether the step changed the state, good or bad."""
    spike, finite = sums.get("spike", (0.0, 1.0)), sums.get("finite", (1.0, 1.0))
    return finite[0] >= finite[1] and not spike[0]


def why_bad(sums: Sums) -> str | None:
    """A phrase; None for a good step."""
    names = not_finite(sums)
    if names:
        return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite"
    total, weight = sums.get("finite", (1.0, 1.0))
    if total < weight:
        return "the gradient is not finite"
    total, weight = sums.get("spike", (0.0, 1.0))
    if total > 0:
        loss, of = sums["loss"]
        return f"the loss ({loss / of:.4g}) or its gradient ({sums['grad_norm'][0]:.4g}) jumped"
    return None
