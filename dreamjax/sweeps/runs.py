"""The runs of a sweep: values, a seed, the config that they make, how long each is trained."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dreamjax import config as configs
from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.sweeps import axes, pretrained_encoders
from dreamjax.sweeps.axes import Combination
from dreamjax.sweeps.sweep_config import RunConfig, Sweep
from dreamjax.systems import registry


@dataclass(frozen=True)
class SweepRun:
    """`values`: axis → label. `legs`: what runs have in common → the steps that this one takes for it."""

    values: Combination
    seed: int
    config: RunConfig
    legs: dict[str, int]
    flop: float | None  # of an example, forward and backward
    budget: float | None = None  # FLOP that every run is given, where runs have them in common
    encoder: RunConfig | None = None  # config of the pretraining that it starts from
    stored_name: str = ""  # of its folder, where an earlier version of the config began it

    @property
    def name(self) -> str:
        """Return a readable name, different for every run: values, seed, the start of a hash of the whole config."""
        if self.stored_name:
            return self.stored_name
        text = "-".join(f"{axis.rpartition('.')[2]}={label}" for axis, label in self.values.items())
        safe = re.sub(r"[^A-Za-z0-9.=+-]", "_", text)[:80]
        whole = configs.to_json(self.config) + ("" if self.encoder is None else configs.to_json(self.encoder))
        mark = hashlib.sha256(whole.encode()).hexdigest()[:8]
        return f"{safe}-seed={self.seed}-{mark}" if safe else f"seed={self.seed}-{mark}"

    @property
    def steps(self) -> list[int]:
        """Return the steps after which it is scored, ascending."""
        return sorted(set(self.legs.values()))

    @property
    def prefix(self) -> bool:
        """Return whether a shorter run is the beginning of a longer one: only where its rate does not know the end."""
        optim = getattr(self.config, "optim", None)
        return optim is not None and (optim.schedule == "constant" or optim.decay_steps is not None)

    @property
    def step_flop(self) -> float | None:
        return None if self.flop is None else self.flop * self.config.train.batch_size

    def cost(self) -> float | None:
        """Return the FLOP of everything that is trained of it."""
        return self.step_flop and self.step_flop * (max(self.steps) if self.prefix else sum(self.steps))


def expand(sweep: Sweep, budget: float | None = None) -> list[SweepRun]:
    """Return the runs of a grid, a list or a random sweep; `budget` as in `make`."""
    settings = sweep.settings
    if settings.search == "random":
        combinations = axes.random(sweep.axes, settings.trials, settings.draw_seed)
        if len(combinations) < settings.trials:
            log.warning("trials is %d, but the axes gave only %d different ones", settings.trials, len(combinations))
    else:
        combinations = {"grid": axes.grid, "list": axes.listed}[settings.search](sweep.axes)
    return make(sweep, combinations, budget)


def make(sweep: Sweep, combinations: Sequence[Combination], budget: float | None = None) -> list[SweepRun]:
    """Return every combination with every seed. Raise UserError where one is not a run, or FLOP cannot be compared.

    `budget`: FLOP that all are given, where an earlier call has decided it; None: those of the cheapest.
    """
    runs = [of(sweep, values, seed) for values in combinations for seed in sweep.settings.seeds]
    if not runs:
        raise UserError(f"{sweep.source}: the sweep has no runs; give its axes values")
    return _with_legs(sweep, runs, budget)


def of(sweep: Sweep, values: Combination, seed: int) -> SweepRun:
    """Return a run without its lengths. Raise UserError for values that do not go together."""
    config, encoder = sweep.config_of(values, seed), sweep.pretrain_of(values, seed)
    if encoder is not None:
        config, encoder = pretrained_encoders.split(config, encoder)
    try:
        flop = registry.build(config).flops()
    except UserError:  # files that the count is made from are not there
        if "flops" in sweep.settings.compare:
            raise
        flop = None
    return SweepRun(values, seed, config, {}, flop, encoder=encoder)


def _with_legs(sweep: Sweep, runs: Sequence[SweepRun], budget: float | None) -> list[SweepRun]:
    """Equal examples: the base's. Equal FLOP: what the cheapest run takes for these; others take fewer steps."""
    compare, base = sweep.settings.compare, sweep.base_config().train
    examples = base.steps * base.batch_size
    if "flops" in compare:
        known = [run.flop for run in runs if run.flop is not None]
        if len(known) < len(runs):
            system = runs[0].config.system
            raise UserError(f"{sweep.source}: the FLOP of a step of {system} are not known; set compare=examples")
        budget = budget or examples * min(known)
    made = []
    for run in runs:
        legs, step = {}, run.step_flop
        whole = max(1, round(examples / run.config.train.batch_size))
        if "examples" in compare:
            legs["examples"] = whole
        if step is not None and budget is not None:
            if budget < step / 2:
                raise UserError(
                    f"{sweep.source}: one step of {run.name.rpartition('-seed')[0]} takes {step / budget:.3g} times "
                    "the FLOP that every run is given: leave it out, train the base for more steps, or set "
                    "compare=examples"
                )
            legs["flops"] = max(1, round(budget / step))
        made.append(replace(run, legs=legs, budget=budget))
    return made
