"""The runs of a sweep: their values, seeds, configs and lengths, and the encoders that they start from.

An encoder is pretrained once for all runs that use the same one. `pretrain` of a sweep is the config of the
pretraining; an axis over `pretrain.KEY` changes it. A run whose encoder starts from random weights has only the sizes
and the signal of that config.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
from etils import epath

from dreamjax import config as configs
from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.storage import locks, presence
from dreamjax.sweeps import axes
from dreamjax.sweeps.axes import Combination
from dreamjax.sweeps.sweep_config import RunConfig, Sweep
from dreamjax.systems import registry
from dreamjax.systems.base import Embeds, Pretrained, capabilities
from dreamjax.training import checkpoints
from dreamjax.training.workdir import changes, effective


@dataclass(frozen=True)
class SweepRun:
    """A run. `values`: axis → label. `legs`: what is equal between runs → the steps of this run."""

    values: Combination
    seed: int
    config: RunConfig
    legs: dict[str, int]
    flop: float | None  # of an example, forward and backward
    budget: float | None = None  # FLOP of every run, where they are compared at equal FLOP
    encoder: RunConfig | None = None  # config of the pretraining that it starts from
    stored_name: str = ""  # of its folder, where an earlier version of the config began it

    @property
    def name(self) -> str:
        """Return a readable, unique name: values, seed and the start of a hash of the whole config."""
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
        """Return whether a shorter run is the beginning of a longer one: its schedule must not depend on the length."""
        optim = getattr(self.config, "optim", None)
        return optim is not None and (optim.schedule == "constant" or optim.decay_steps is not None)

    @property
    def step_flop(self) -> float | None:
        return None if self.flop is None else self.flop * self.config.train.batch_size

    def cost(self) -> float | None:
        """Return the FLOP of all of its training."""
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
    """Return every combination with every seed. Raise UserError for an invalid run, or if FLOP cannot be compared.

    `budget`: FLOP of every run, where an earlier call has fixed it; None: those of the cheapest.
    """
    runs = [of(sweep, values, seed) for values in combinations for seed in sweep.settings.seeds]
    if not runs:
        raise UserError(f"{sweep.source}: the sweep has no runs; give its axes values")
    return _with_legs(sweep, runs, budget)


def of(sweep: Sweep, values: Combination, seed: int) -> SweepRun:
    """Return a run without its lengths. Raise UserError for values that do not go together."""
    config, encoder = sweep.config_of(values, seed), sweep.pretrain_of(values, seed)
    if encoder is not None:
        config, encoder = split_encoder(config, encoder)
    try:
        flop = registry.build(config).flops()
    except UserError:  # files that the count is made from are not there
        if "flops" in sweep.settings.compare:
            raise
        flop = None
    return SweepRun(values, seed, config, {}, flop, encoder=encoder)


def _with_legs(sweep: Sweep, runs: Sequence[SweepRun], budget: float | None) -> list[SweepRun]:
    """Return the runs with lengths. Equal examples: the base's. Equal FLOP: those of the cheapest run at these."""
    if epochs := max(getattr(run.config, "epochs", 0) for run in runs):
        raise UserError(
            f"{sweep.source}: epochs is {epochs}, but the runs of a sweep are as long as base.train.steps and the "
            "comparison say; set base.epochs=0"
        )
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
        if "examples" in compare:
            legs["examples"] = max(1, round(examples / run.config.train.batch_size))
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


# ------------------------------------------------------------------------------------------------------------ encoders
def split_encoder(config: RunConfig, pretrain: RunConfig) -> tuple[RunConfig, RunConfig | None]:
    """Return (config of the run, config of the encoder that is pretrained for it or None), with the same signal."""
    system = registry.find(config.system)
    if Pretrained not in capabilities(system) or Embeds not in capabilities(registry.find(pretrain.system)):
        raise UserError(
            f"pretrain trains encoders for systems that start from one, but {config.system} does not start from one of "
            f"{pretrain.system}; leave pretrain out"
        )
    run, before = cast(Any, config), cast(Any, pretrain)
    kind = cast(type[Pretrained], system)
    data = replace(run.data, **{name: getattr(before.data, name) for name in kind.shared_data})
    group = kind.encoder_key.rpartition(".")[0]
    encoder = replace(getattr(run, group), path="", model=before.model)
    config = replace(config, data=data, **{group: encoder})
    return config, None if encoder.start == "random" else pretrain


def encoder_folder(workdir: epath.PathLike, encoder: RunConfig) -> epath.Path:
    """Return the folder of an encoder's run: one for equal configs, also under the name of an earlier version."""
    text = configs.to_json(encoder)
    every = epath.Path(workdir) / "shared" / "encoders"
    path = every / hashlib.sha256(text.encode()).hexdigest()[:12]
    if presence.exists(path):
        return path
    defaults = configs.to_json(type(encoder)())
    stored = [entry / "config.json" for entry in presence.entries(every)]
    known = (one for one in stored if presence.exists(one))
    return next((one.parent for one in known if not effective(changes(one.read_text(), text, defaults))), path)


def encoder_is_ready(path: epath.Path, encoder: RunConfig) -> bool:
    return encoder.train.steps in checkpoints.committed_steps(path / "checkpoints")


@contextlib.contextmanager
def encoder_held(path: epath.Path) -> Iterator[None]:
    """Lock an encoder, waiting for other processes that train it."""
    if jax.process_count() > 1:  # which are one run
        yield
        return
    folder = path.parents[1] / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with locks.held(folder / path.name, f"the encoder {path.name}", stop=lambda: False):
        yield


def with_encoder(workdir: epath.PathLike, config: RunConfig, encoder: RunConfig | None) -> RunConfig:
    """Return the config with the folder of its encoder's run."""
    return config if encoder is None else with_path(config, str(encoder_folder(workdir, encoder)))


def with_path(config: RunConfig, path: str) -> RunConfig:
    """Return the config of a system that starts from an encoder, with `path` as the folder of the encoder's run."""
    group, _, key = cast(type[Pretrained], registry.find(config.system)).encoder_key.rpartition(".")
    return replace(config, **{group: replace(getattr(config, group), **{key: path})})
