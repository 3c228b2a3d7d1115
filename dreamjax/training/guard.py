"""Bad steps (a gradient that is not finite, or a loss that jumps): detected on the device, handled by the loop.

On the device a bad step leaves parameters, average and optimiser unchanged (`training.update`). The run's policy
then decides: stop, skip the step, or go back to the last saved step and continue with data not seen yet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.training.step_metrics import Sums, not_finite
from dreamjax.training.task import PyTree

WATCHED = ("loss", "grad_norm")
KEEP = 0.98  # of the running statistics a step; they look back over about 1 / (1 - KEEP) = 50 steps
SETTLED = 50  # good steps before a jump can be detected


@dataclass(frozen=True)
class GuardConfig:
    """The run's policy for bad steps.

    `policy`: "stop" ends the run, the last saved step untouched; "skip" skips the step; "rollback" restores the last
    saved step and continues with the batches after the bad one. `spike`: a loss or gradient norm more than this many
    standard deviations above its running mean is bad too (None: only values that are not finite). `most`: number of
    bad steps in a row, or of rollbacks in all, after which the run ends regardless. A step that takes `hang` times as
    long as the median one (0: any time), and `hang_seconds` at least, ends the run: a process hangs.
    """

    policy: Literal["stop", "skip", "rollback"] = "stop"
    spike: float | None = None
    most: int = 10
    hang: float = 100.0
    hang_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.spike is not None and not 0 < self.spike < math.inf:
            allowed = "it must be positive (none: spikes are not detected)"
            raise ValueError(f"train.guard.spike is {self.spike}, but {allowed}")
        if self.most < 1:
            raise ValueError(f"train.guard.most is {self.most}, but it must be at least 1")
        if not (0 <= self.hang < math.inf and 0 < self.hang_seconds < math.inf):
            raise ValueError("train.guard.hang must be at least 0 (0: a step may take any time), hang_seconds above 0")


# -------------------------------------------------------------------------------------------------------- on the device
def statistics(config: GuardConfig) -> PyTree:
    """Return `state.guard` before the first step; {} where spikes are not detected."""
    if config.spike is None:
        return {}
    zero = jnp.zeros((), jnp.float32)
    running = {name: {"mean": zero, "square": zero} for name in WATCHED}
    return {"spike": jnp.float32(config.spike), "steps": zero, **running}


def is_spike(guard: PyTree, values: Mapping[str, Array]) -> Bool[Array, ""]:
    """Return whether one of `values` lies more than `spike` standard deviations above its running mean."""
    if not guard:
        return jnp.asarray(False)
    above = [values[name] - mean > guard["spike"] * deviation for name, mean, deviation in _moments(guard)]
    return (guard["steps"] >= SETTLED) & jnp.any(jnp.stack(above))


def _moments(guard: PyTree) -> list[tuple[str, Array, Array]]:
    """Return (name, mean, standard deviation) of each value; the weights of the n steps so far add up to 1 - KEEP^n."""
    total = jnp.maximum(1 - KEEP ** guard["steps"], jnp.finfo(jnp.float32).tiny)
    moments = []
    for name in WATCHED:
        mean, square = guard[name]["mean"] / total, guard[name]["square"] / total
        moments.append((name, mean, jnp.sqrt(jnp.maximum(square - mean**2, 0.0))))
    return moments


def updated(guard: PyTree, values: Mapping[str, Array], good: Bool[Array, ""]) -> PyTree:
    """Return the statistics with this step's values, where it was good."""
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
    """A bad step ended the run, by its policy."""


class RollBack(Exception):
    """Go back to the last saved step, and continue with the batches after `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


@dataclass
class Guard:
    """Judge each step's metrics and count bad steps; `count()` goes into run.json."""

    config: GuardConfig
    skipped: int = 0
    in_a_row: int = 0
    rollbacks: int = 0

    def count(self) -> dict[str, int]:
        """Return all counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "rollbacks": self.rollbacks}

    def nonzero_counts(self) -> dict[str, int]:
        """Return the counts that are worth logging."""
        return {name: n for name, n in self.count().items() if n and name != "in_a_row"}

    def check_system(self, sums: Sums) -> None:
        """Raise UserError where spikes should be detected and the system's update does not."""
        if self.config.spike is not None and "spike" not in sums:
            raise UserError("train.guard.spike is set, but this system's update does not detect spikes; set it to none")

    def restored(self, count: Mapping[str, int]) -> None:
        """Continue from the counts of a checkpoint."""
        for name in self.count():
            setattr(self, name, count.get(name, 0))

    def passes(self, step: int, sums: Sums) -> bool:
        """Return whether the step counts; False where it was skipped. Raise BadStep or RollBack by the policy."""
        reason, policy, most = why_bad(sums), self.config.policy, self.config.most
        if reason is None:
            self.in_a_row = 0
            return True
        bad = f"step {step}: {reason}"
        stopped = "training stopped, the last saved step is untouched"
        if policy == "stop":
            remedy = "lower the learning rate, look at the data, or set train.guard.policy to skip or rollback"
            raise BadStep(f"{bad}; {stopped} ({remedy})")
        if policy == "rollback":
            if self.rollbacks >= most:
                times = f"training was rolled back {self.rollbacks} times already (train.guard.most)"
                raise BadStep(f"{bad}, and {times}; {stopped}")
            self.rollbacks += 1
            log.warning("%s; back to the last saved step (%d so far)", bad, self.rollbacks)
            raise RollBack(step)
        spike, finite = sums.get("spike", (0.0, 1.0)), sums.get("finite", (1.0, 1.0))
        if finite[0] >= finite[1] and not spike[0]:
            raise BadStep(f"{bad}, but the step was taken; training stopped")
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= most:
            raise BadStep(f"{bad}, as in {self.in_a_row} steps in a row (train.guard.most); {stopped}")
        log.warning("%s; it is skipped (%d so far)", bad, self.skipped)
        return False


def why_bad(sums: Sums) -> str | None:
    """Return the reason why the step is bad; None for a good step."""
    if names := not_finite(sums):
        return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite"
    total, weight = sums.get("finite", (1.0, 1.0))
    if total < weight:
        return "the gradient is not finite"
    if sums.get("spike", (0.0, 1.0))[0] > 0:
        loss, of = sums["loss"]
        return f"the loss ({loss / of:.4g}) or its gradient ({sums['grad_norm'][0]:.4g}) jumped"
    return None
