"""Stage A of a sweep of stage B: encoders that points build on, each pretrained once for all points that want the same.

`pretrain` of a sweep is the config of masked pretraining; an axis over `pretrain.KEY` changes it. A point whose
`encoder.start` is random has the sizes and the signal of that config, and nothing that was learned.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.storage import atomic, locks
from dreamjax.systems.dreamdiffusion import SHARED, DreamDiffusionConfig
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig
from dreamjax.training import checkpoints, preemption


def split(config: Any, pretrain: Any) -> tuple[Any, Any | None]:
    """(config of the point, of the encoder that is pretrained for it or None): both know the signal in one form."""
    if not isinstance(config, DreamDiffusionConfig) or not isinstance(pretrain, MaskedPretrainingConfig):
        raise UserError("pretrain is the masked_pretraining before a sweep of dreamdiffusion, and of nothing else")
    data = dataclasses.replace(config.data, **{name: getattr(pretrain.data, name) for name in SHARED})
    if config.encoder.start == "random":
        return dataclasses.replace(
            config, data=data, encoder=dataclasses.replace(config.encoder, path="", model=pretrain.model)
        ), None
    encoder = dataclasses.replace(config.encoder, path="", model=pretrain.model)
    return dataclasses.replace(config, data=data, encoder=encoder), pretrain


def folder(workdir: epath.PathLike, encoder: Any) -> epath.Path:
    """The run of an encoder: one place for equal configs."""
    mark = hashlib.sha256(configs.to_json(encoder).encode()).hexdigest()[:12]
    return epath.Path(workdir) / "shared" / "encoders" / mark


def is_ready(where: epath.Path, encoder: Any) -> bool:
    return encoder.train.steps in checkpoints.committed_steps(where / "checkpoints")


@contextlib.contextmanager
def one_at(where: epath.Path) -> Iterator[None]:
    """While no other process is at the encoder, for which it waits. Raises locks.Busy where SIGTERM ends the wait."""
    with contextlib.ExitStack() as alone:
        if jax.process_count() == 1:  # several are one run
            folder = where.parents[1] / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            with preemption.Watch() as watch:
                alone.enter_context(locks.held(folder / where.name, f"the encoder {where.name}", watch.requested))
        yield


def remember(where: epath.Path, seconds: float) -> None:
    """What an encoder took, of the points together."""
    atomic.write_text(where / "seconds.json", json.dumps({"seconds": seconds}))


def placed(workdir: epath.PathLike, config: Any, encoder: Any | None) -> Any:
    """The config with the path of its encoder's run."""
    if encoder is None:
        return config
    path = str(folder(workdir, encoder))
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, path=path))
