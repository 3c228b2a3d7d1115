"""The masked autoencoder, or its encoder, of a foreign checkpoint: its config, told by the sizes of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig
from dreamjax.weights import masked_autoencoder as names

GENERATIVE = "cond_stage_model.mae."  # where the encoder lies in the generative checkpoint
HEAD_DIM = 64  # assumed where no configuration says the number of heads


@dataclass
class Found:
    """What a checkpoint holds: tensors under DreamDiffusion's names, and what it says about them."""

    format: str
    tensors: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)  # groups of MaskedPretrainingConfig that are known
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def of_generative(state: Mapping[str, Any], settings: dict[str, Any], source: str) -> Found:
    """The encoder as stage B has fine-tuned it: without decoder, without cls token, and with trained positions."""
    inside = {name.removeprefix(GENERATIVE): v for name, v in state.items() if name.startswith(GENERATIVE)}
    tensors = torch_files.tensors(inside, source)
    found = Found("the encoder of DreamDiffusion's generative checkpoint", tensors)
    for unused in ("cls_token", "mask_token"):
        if tensors.pop(unused, None) is not None:
            found.notes.append(f"{unused} was left out: the fine-tuned encoder does not use it")
    found.config = {"model": heads(settings) | {"cls_token": False}, "data": {"divide": 1.0}}
    found.notes.append("stage B does not divide its input by 10 as stage A does, so data.divide is 1 (--divide)")
    return found


def attributes(config: Any) -> dict[str, Any]:
    """Plain attributes of a pickled configuration, whose class is not imported."""
    found = getattr(config, "attributes", config)
    return torch_files.plain(found) if isinstance(found, Mapping) else {}


def heads(settings: Mapping[str, Any]) -> dict[str, int]:
    known = {"heads": settings.get("num_heads"), "decoder_heads": settings.get("decoder_num_heads")}
    return {name: value for name, value in known.items() if isinstance(value, int)}


# ------------------------------------------------------------------------------------------------------- configuration
def config_of(
    found: Found, source: str, given: Mapping[str, int | None], data: Mapping[str, float | None]
) -> MaskedPretrainingConfig:
    """The run's config: sizes from the tensors, the rest from the checkpoint, the arguments, or said aloud."""
    sizes = _sizes(found.tensors, source)
    model: dict[str, Any] = (
        sizes | found.config.get("model", {}) | {name: n for name, n in given.items() if n is not None}
    )
    if "heads" not in model:
        model["heads"] = max(1, sizes["dim"] // HEAD_DIM)
        found.notes.append(f"the number of heads is not stored: {model['heads']} of {HEAD_DIM} assumed (--heads)")
    if "decoder_heads" not in model:
        model["decoder_heads"] = model["heads"]
        if sizes["decoder_depth"]:
            found.notes.append(f"decoder heads are not stored: {model['heads']} assumed (--decoder-heads)")
    if not sizes["decoder_depth"]:  # sizes of what is not there: any that are valid
        if given.get("decoder_heads") is not None:
            raise UserError(f"{source}: there is no decoder in it; leave out --decoder-heads")
        model |= {"decoder_dim": model["dim"], "decoder_heads": model["heads"]}
    samples = _positions(found, model, source) * sizes["patch"]
    base: dict[str, Any] = {"montage": "own", "mapping": "tile", "tile_channels": sizes["channels"], "stretch": True}
    base |= {"scaling": "divide", "clip": 0.0, "samples": samples}
    chosen: dict[str, Any] = (
        base | found.config.get("data", {}) | {name: x for name, x in data.items() if x is not None}
    )
    groups: dict[str, Any] = {name: found.config[name] for name in ("mask", "loss") if name in found.config}
    tree: dict[str, Any] = {"system": "masked_pretraining", "model": model, "data": chosen, **groups}
    return configs.to_dataclass(MaskedPretrainingConfig, ConfigDict(tree), source)


def _sizes(tensors: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The fields of ModelConfig that the shapes tell."""
    needed = ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    if lacking := [name for name in needed if name not in tensors]:
        some = ", ".join(list(tensors)[:5])
        raise UserError(
            f"{source}: this is no masked-signal encoder: there is no {' and no '.join(lacking)} among its "
            f"{len(tensors)} tensors ({some} …)"
        )
    kernel, hidden = tensors[needed[0]].shape, tensors[needed[1]].shape
    if len(kernel) != 3 or len(hidden) != 2:
        raise UserError(
            f"{source}: patch_embed.proj.weight has shape {tuple(kernel)}, but (dim, channels, patch) is meant"
        )
    decoder = tensors["decoder_embed.weight"].shape if "decoder_embed.weight" in tensors else None
    dim, spectrum = kernel[0], tensors.get("interpolation.log_spectrum")
    curve = {"interpolation": "gaussian", "spectrum_points": spectrum.shape[0]} if spectrum is not None else {}
    return {
        "channels": kernel[1],
        "patch": kernel[2],
        "dim": dim,
        "depth": _depth(tensors, "blocks", source),
        "mlp_ratio": _ratio(tensors),
        "decoder_dim": decoder[0] if decoder else dim,
        "decoder_depth": _depth(tensors, "decoder_blocks", source) if decoder else 0,
        "cls_token": "cls_token" in tensors or decoder is not None,
        **curve,
    }


def _depth(tensors: Mapping[str, Any], name: str, source: str) -> int:
    numbers = [int(m[1]) for key in tensors if (m := re.match(rf"{name}\.(\d{{1,6}})\.", key))]
    if not numbers or max(numbers) > len(tensors):
        raise UserError(f"{source}: the tensors {name}.N have no consecutive numbers")
    return max(numbers) + 1


def _ratio(tensors: Mapping[str, Any]) -> float:
    """The mlp_ratio for which int(dim · ratio) is the hidden width of the encoder, and of a decoder too."""
    sizes = []
    for name in ("blocks.0.mlp.fc1.weight", "decoder_blocks.0.mlp.fc1.weight"):
        if name in tensors and len(tensors[name].shape) == 2:
            hidden, dim = tensors[name].shape
            sizes.append((hidden, dim))
    low, high = max(hidden / dim for hidden, dim in sizes), min((hidden + 1) / dim for hidden, dim in sizes)
    for ratio in (low, (low + high) / 2):
        if all(int(dim * ratio) == hidden for hidden, dim in sizes):
            return ratio
    return sizes[0][0] / sizes[0][1]  # no ratio fits both: the table will name what does not fit


def _positions(found: Found, model: dict[str, Any], source: str) -> int:
    """The number of patches; settles whether positions are a parameter, and drops those that the model computes."""
    stored = found.tensors.get("pos_embed")
    if stored is None:
        model["positions"] = "learned"  # so that pos_embed is reported among the missing names
        return 1
    if len(stored.shape) != 3 or stored.shape[1] < 2:
        raise UserError(f"{source}: pos_embed has shape {tuple(stored.shape)}, but (1, 1 + tokens, dim) is meant")
    decoder = found.tensors.pop("decoder_pos_embed", None)
    if decoder is not None and not names.is_fixed(decoder):
        raise UserError(f"{source}: decoder_pos_embed was trained, which dreamjax's decoder cannot represent")
    if names.is_fixed(stored):
        model["positions"] = "sincos"
        del found.tensors["pos_embed"]
    else:
        model["positions"] = "learned"
        found.notes.append("pos_embed is not the fixed sines and cosines; it was kept as a trained parameter")
    return stored.shape[1] - 1
