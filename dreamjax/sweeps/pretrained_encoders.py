"""Encoders that the runs of a sweep start from: each is pretrained once for all runs that use the same one.

`pretrain` of a sweep is the config of the pretraining; an axis over `pretrain.KEY` changes it. A run whose encoder
starts at random has the sizes and the signal of that config, and nothing that was learned.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any, cast

import jax
from etils import epath

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.storage import atomic, locks
from dreamjax.sweeps.sweep_config import RunConfig
from dreamjax.systems import registry
from dreamjax.systems.base import Embeds, Pretrained, capabilities
from dreamjax.training import checkpoints, preemption
from dreamjax.training.workdir import changes


def split(config: RunConfig, pretrain: RunConfig) -> tuple[RunConfig, RunConfig | None]:
    """Return (config of the run, config of the encoder that is pretrained for it or None), with the same signal."""
    system = registry.find(config.system)
    if Pretrained not in capabilities(system) or Embeds not in capabilities(registry.find(pretrain.system)):
        raise UserError(
            f"pretrain trains encoders for systems that start from one, but {config.system} does not start from one of "
            f"{pretrain.system}; leave pretrain out"
        )
    run, before = cast(Any, config), cast(Any, pretrain)
    kind = cast(type[Pretrained], system)
    data = dataclasses.replace(run.data, **{name: getattr(before.data, name) for name in kind.shared_data})
    group = kind.encoder_key.rpartition(".")[0]
    encoder = dataclasses.replace(getattr(run, group), path="", model=before.model)
    config = dataclasses.replace(config, data=data, **{group: encoder})
    return config, None if encoder.start == "random" else pretrain


def folder(workdir: epath.PathLike, encoder: RunConfig) -> epath.Path:
    """Return the run of an encoder: one folder for equal configs, also where an earlier version named it."""
    text = configs.to_json(encoder)
    every = epath.Path(workdir) / "shared" / "encoders"
    path = every / hashlib.sha256(text.encode()).hexdigest()[:12]
    if path.exists() or not every.exists():
        return path
    defaults = configs.to_json(type(encoder)())
    stored = sorted(every.glob("*/config.json"))
    return next((one.parent for one in stored if not changes(one.read_text(), text, defaults)), path)


def is_ready(path: epath.Path, encoder: RunConfig) -> bool:
    return encoder.train.steps in checkpoints.committed_steps(path / "checkpoints")


@contextlib.contextmanager
def held(path: epath.Path) -> Iterator[None]:
    """Hold an encoder while no other process trains it. Raise locks.Busy where SIGTERM ends the wait."""
    with contextlib.ExitStack() as stack:
        if jax.process_count() == 1:  # several are one run
            folder = path.parents[1] / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            with preemption.Watch() as watch:
                stack.enter_context(locks.held(folder / path.name, f"the encoder {path.name}", watch.requested))
        yield


def write_seconds(path: epath.Path, seconds: float) -> None:
    """Keep what an encoder took, which all of its runs share."""
    atomic.write_text(path / "seconds.json", json.dumps({"seconds": seconds}))


def with_encoder(workdir: epath.PathLike, config: RunConfig, encoder: RunConfig | None) -> RunConfig:
    """Return the config with the folder of its encoder's run."""
    return config if encoder is None else with_path(config, str(folder(workdir, encoder)))


def with_path(config: RunConfig, path: str) -> RunConfig:
    """Return the config of a system that starts from an encoder, with `path` as the folder of the encoder's run."""
    group, _, key = cast(type[Pretrained], registry.find(config.system)).encoder_key.rpartition(".")
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{key: path})})
