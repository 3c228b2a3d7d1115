"""Weights of released codes of retrieval become runs: an encoder's sizes are read from the shapes of its tensors.

The names are those of `weights/brain_encoders.py`. What a file does not state is assumed in a note: how the signal was
scaled, and for encoders of the flat signal how many of the numbers are sensors (`--channels`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dreamjax.errors import UserError
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.systems.exchange import Checkpoint, Imported, ImportOptions
from dreamjax.systems.opening import parameter_count
from dreamjax.targets.responses import ResponseConfig
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from dreamjax.systems.retrieval_base import RetrievalSystem

Shapes = Mapping[str, tuple[int, ...]]  # by the table's names
Sizes = dict[str, int]  # fields of SizesConfig
FLAT = {4250: 17, 15750: 63, 54200: 271, 54471: 271}  # numbers of a trial in published sizes → sensors
MAPS = {  # NeuroBridge's maps to the common space
    f"{theirs}.linear.{part}": f"{ours}.{part}"
    for theirs, ours in (("eeg_projector", "brain"), ("img_projector", "image"))
    for part in ("weight", "bias")
}
SCALE = ("logit_scale", "brain.logit_scale")


def convolutional(shapes: Shapes, encoder: str, projector: str, kernel: int = 25, pool: int = 51) -> Sizes | None:
    """Return the sizes of `TemporalSpatial` and a projector; the fewest samples that give as many windows."""
    spatial, last = shapes.get(f"{encoder}.tsconv.4.weight", ()), shapes.get(f"{encoder}.projection.0.weight", ())
    flat = shapes.get(f"{projector}.0.weight", ())
    if len(spatial) != 4 or len(last) != 4 or len(flat) != 2:
        return None
    samples = kernel + pool - 1 + 5 * (flat[1] // last[0] - 1)
    return {"channels": spatial[2], "samples": samples, "people": 1, "features": flat[0]}


def flat_signal(shapes: Shapes, channels: int | None) -> Sizes | None:
    """Return the sizes of `EEGProject`. Raise UserError where the number of sensors is unknown or does not fit."""
    flat = shapes.get("model.0.weight", ())
    if len(flat) != 2 or "model.2.weight" not in shapes:
        return None
    sensors = channels or FLAT.get(flat[1])
    if sensors is None or flat[1] % sensors:
        raise UserError(
            f"--channels: the encoder reads {flat[1]} numbers a trial, which "
            + (f"{sensors} channels do not divide" if sensors else "does not say how many channels they are of")
            + "; give the number of channels that it was trained on"
        )
    return {"channels": sensors, "samples": flat[1] // sensors, "people": 1, "features": flat[0]}


def imported(system: type["RetrievalSystem"], checkpoint: Checkpoint, options: ImportOptions) -> Imported | None:
    """Return the run of a released code's weights; None where they are not those of this system.

    Raise UserError naming every tensor that misfits.
    """
    maps = {MAPS[name]: x for name, x in checkpoint.tensors.items() if name in MAPS}
    named = system.network.table.named(
        {n: x for n, x in checkpoint.tensors.items() if n not in MAPS and n not in SCALE}
    )
    shapes = {name: tuple(getattr(x, "shape", ())) for name, x in named.items()}
    shapes |= {name: tuple(getattr(x, "shape", ())) for name, x in maps.items()}
    if (sizes := system.released_sizes(shapes, options.channels)) is None:
        return None
    config = system.Config()
    given = {"variant": "as_released"} if hasattr(config.model, "variant") else {}
    config = replace(
        config,
        sizes=replace(config.sizes, **sizes),
        data=ResponseConfig(scaling="none", clip=0.0),
        model=replace(config.model, **given, **system.released_model(shapes)),
    )
    task = system(config)
    like: Any = jax.eval_shape(task.init_params, jax.random.key(0))
    tensors = torch_files.tensors(dict(named), checkpoint.source)
    arrays = {name: np.asarray(x) for name, x in torch_files.tensors(maps, checkpoint.source).items()}
    params: JsonDict = {
        "encoder": task.network.table.to_dreamjax(tensors, like["encoder"], checkpoint.source),
        "logit_scale": np.float32(_scale(checkpoint, config.loss.initial)),
        **task.image_params(arrays),
    }
    words = f"{sizes['channels']} channels x {sizes['samples']} samples"
    notes = [
        f"read as {words}; what the signal's unit and scaling were is not in the file: as the records have it assumed "
        "(data.scaling)"
    ]
    description = {"system": system.name, "input": words, "vectors": f"{sizes['features']} numbers an image"}
    return Imported(f"{system.name}, released weights", config, params, parameter_count(params), description, notes)


def _scale(checkpoint: Checkpoint, usual: float) -> float:
    """Return the stored scale of the logits, or the usual one."""
    stored = next((checkpoint.tensors[name] for name in SCALE if name in checkpoint.tensors), None)
    if stored is None:
        return usual
    value = np.asarray(torch_files.tensors({"logit_scale": stored}, checkpoint.source)["logit_scale"], np.float32)
    if value.size != 1 or not np.isfinite(value).all():
        raise UserError(f"{checkpoint.source}: logit_scale is not one finite number; save the weights again")
    return float(value.reshape(()))
