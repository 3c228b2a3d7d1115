"""Import DreamDiffusion's whole generative checkpoint: encoder, maps, and Stable Diffusion without its text encoder.

    model.diffusion_model.*         the U-Net under CompVis's names, and in it the maps to its time embedding
    first_stage_model.*             the autoencoder, likewise
    cond_stage_model.mae.*          the encoder; the maps next to it
    betas, …                        the noise schedule

It becomes a run, and a folder of diffusers within the run. Tensors are copied from file to file one after another; only
those that stage B trains are in memory at once.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath

from dreamjax.diffusion import schedule as schedules
from dreamjax.errors import UserError
from dreamjax.parallel.tree_paths import nested
from dreamjax.runs import location
from dreamjax.runs import shapes as architectures
from dreamjax.storage import atomic
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.systems import masked_torch
from dreamjax.systems.diffusion_base import CLASSES, index_of
from dreamjax.systems.exchange import Checkpoint, Imported, ImportOptions
from dreamjax.systems.masked_pretraining import MaskedPretraining, MaskedPretrainingConfig
from dreamjax.systems.masked_torch import GENERATIVE
from dreamjax.training.task import PyTree
from dreamjax.typing import JsonDict
from dreamjax.weights import compvis, conditioner, masked_autoencoder, networks, weight_files
from dreamjax.weights.pipeline_folder import CONFIGS, INDEX
from dreamjax.weights.table import Table, TensorSlot, WeightMismatch, differences

if TYPE_CHECKING:
    from dreamjax.systems.dreamdiffusion import DreamDiffusion, DreamDiffusionConfig

PARTS = "stable-diffusion"  # the folder of diffusers within the run
STEM = "diffusion_pytorch_model"
UNET, VAE, MAPS = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
TIME = "time_embed_condtion."  # of the U-Net: the maps from the context to its time embedding
TRAINED = "cross_attention_and_norm"  # of the U-Net, as published
LIKE = "sd15"  # settings that shapes do not determine: heads, activations, groups, the schedule
UNUSED = (  # (prefix, description) of parts that generation does not need
    ("image_embedder.", "the CLIP tower that stage B aligns with, whose layer_norm2 it trained by accident"),
    ("model_ema.", "averaged weights, which the published code never uses"),
    (f"{MAPS}cls_net.", "a classifier of the trials"),
    (f"{VAE}loss.", "the losses of the autoencoder's training"),
)


@dataclass(frozen=True)
class StoredPart:
    """A part of the checkpoint. `tensors`: under the names of `table`, still in the file."""

    table: Table
    shapes: PyTree
    tensors: Mapping[str, Any]
    checkpoint_name: Callable[[str], str]  # the table's → the checkpoint's

    @functools.cached_property
    def slots(self) -> dict[str, TensorSlot]:
        return self.table.slots(self.shapes)

    @property
    def parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes))


@dataclass(frozen=True)
class Shaped:
    """A tensor that is read when asked for, in the shape of the name that it gets."""

    tensor: Any
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.tensor.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.tensor, dtype).reshape(self.shape)


# ------------------------------------------------------------------------------------------------------------- reading
def imported(system: type["DreamDiffusion"], checkpoint: Checkpoint, options: ImportOptions) -> Imported | None:
    """Return the run of a whole generative checkpoint; None for another checkpoint.

    Raise UserError for a checkpoint that lacks a part, and WeightMismatch with every missing, extra and misshapen
    tensor of all parts, under the checkpoint's names, before any is read.
    """
    state, source = checkpoint.tensors, checkpoint.source
    generative = any(name.startswith(GENERATIVE) for name in state)
    if checkpoint.exported or not generative or options.part != "whole":
        return None
    encoder = masked_torch.of_generative(checkpoint)
    config = masked_torch.config_of(MaskedPretraining, encoder, source, options)
    unet, vae, maps = _groups(state, encoder.notes, source)
    usual = architectures.get(LIKE)
    if getattr(scale := state.get("scale_factor"), "shape", None) == ():
        usual["vae"]["scaling_factor"] = float(np.asarray(scale))
    configs = {"unet": compvis.unet_config(_shapes(unet), f"{source}: {UNET}*", usual["unet"])}
    configs["vae"] = compvis.vae_config(_shapes(vae), f"{source}: {VAE}*", usual["vae"])
    arguments = _maps(maps, config, configs["unet"], source)
    parts = {
        "unet": _network(UNET, unet, configs["unet"], source),
        "vae": _network(VAE, vae, configs["vae"], source),
        "encoder": StoredPart(
            masked_autoencoder.TABLE,
            masked_torch.shapes_of(MaskedPretraining, config),
            encoder.tensors,
            lambda name: GENERATIVE + name,
        ),
        "conditioner": StoredPart(conditioner.TABLE, conditioner.NETWORK.shapes(arguments), maps, _name_of_map),
    }
    compared = [differences(part.slots, part.tensors, part.checkpoint_name) for part in parts.values()]
    missing, extra = ([name for part in compared for name in part[i]] for i in (0, 1))
    misshapen = [problem for part in compared for problem in part[2].values()]
    if missing or extra or misshapen:
        raise WeightMismatch(source, missing, extra, misshapen)
    configs["scheduler"] = _scheduler(state, usual["scheduler"], source)
    run = _config(system, config, arguments)
    encoder.notes += [
        f"heads ({configs['unet']['attention_head_dim']}), groups and activations, which no tensor determines, are "
        "those of Stable Diffusion 1",
        "there is no text encoder in it and no unconditional branch was trained, so it generates without guidance; as "
        "published: --sampler plms --steps 250 --guidance 1",
    ]
    counts = {name: part.parameters for name, part in parts.items()}
    steps = configs["scheduler"]["num_train_timesteps"]
    in_words = f"U-Net of {counts['unet']:,} and autoencoder of {counts['vae']:,} parameters, {steps:,} time steps"
    return Imported(
        "DreamDiffusion's generative checkpoint",
        run,
        _params(parts, system(run).split_unet(parts["unet"].shapes)[0], source),
        sum(counts.values()),
        {**masked_torch.in_words(config), "diffusion": in_words},
        encoder.notes,
        write=lambda folder: _write(folder / PARTS, parts, configs),
    )


def _params(parts: Mapping[str, StoredPart], trained: PyTree, source: str) -> JsonDict:
    """Return the parameters of the run. `trained`: shapes of what stage B trains of the U-Net."""
    unet = parts["unet"]
    leaves = dict(unet.table.leaves(unet.tensors, trained, source, unet.shapes))
    others = {name: parts[name] for name in ("encoder", "conditioner")}
    params = {name: part.table.to_dreamjax(part.tensors, part.shapes, source) for name, part in others.items()}
    return params | {"unet": nested(leaves)}


def _write(folder: epath.Path, parts: Mapping[str, StoredPart], configs: Mapping[str, JsonDict]) -> None:
    """Write Stable Diffusion without its text encoder as diffusers does, tensor by tensor."""
    for name, config in configs.items():
        _write_json(folder / name / CONFIGS.get(name, "config.json"), config)
        if name in parts:
            part = parts[name]
            tensors = {n: Shaped(part.tensors[n], slot.shape) for n, slot in part.slots.items()}
            weight_files.write_safetensors(folder / name, STEM, tensors)
    classes = {name: CLASSES[name] for name in ("unet", "vae")}
    _write_json(folder / INDEX, index_of(configs["scheduler"]["_class_name"], classes))


def _write_json(path: epath.Path, content: JsonDict) -> None:
    atomic.write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _groups(state: Mapping[str, Any], notes: list[str], source: str) -> tuple[JsonDict, ...]:
    """Return (U-Net, autoencoder, maps): each under the names behind its prefix, the time maps among the maps."""
    parts = (UNET, VAE, MAPS)
    groups: dict[str, dict[str, Any]] = {prefix: {} for prefix in (*dict(UNUSED), GENERATIVE, *parts, "")}
    for name, value in state.items():
        prefix = next(prefix for prefix in groups if name.startswith(prefix))
        behind = name.removeprefix(prefix)
        groups[MAPS if prefix == UNET and behind.startswith(TIME) else prefix][behind] = value
    if lacking := [f"{prefix}*" for prefix in parts if not groups[prefix]]:
        raise UserError(
            f"{source}: not a whole generative checkpoint: there is no {' and no '.join(lacking)} in "
            "it; take the encoder alone with --part encoder"
        )
    for prefix, what in UNUSED:
        if count := len(groups[prefix]):
            notes.append(f"{prefix}* ({count} tensors) was left out: {what}; not needed to generate")
    if others := [name for name in groups[""] if "." in name]:  # the rest are buffers of the schedule
        notes.append(f"{len(others)} tensors of no known part were left out: {', '.join(others[:5])}")
    for prefix in parts:
        named = _name_of_map if prefix == MAPS else prefix.__add__
        torch_files.tensors({named(name): value for name, value in groups[prefix].items()}, source)
    return tuple(groups[prefix] for prefix in parts)


def _name_of_map(name: str) -> str:
    """Return what the checkpoint calls one of the maps."""
    return (UNET if name.startswith(TIME) else MAPS) + name


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _network(prefix: str, tensors: Mapping[str, Any], config: JsonDict, source: str) -> StoredPart:
    network = networks.of(config, source)
    shapes = network.shapes(network.arguments(config, f"{source}: {prefix}*"))
    slots = network.table.slots(shapes)
    if prefix == UNET:
        names = compvis.unet_names(slots, config["layers_per_block"])
    else:
        names = compvis.vae_names(slots, len(config["block_out_channels"]))
    back = {theirs: ours for ours, theirs in names.items()}
    tensors = {back.get(name, name): tensor for name, tensor in tensors.items()}
    return StoredPart(network.table, shapes, tensors, lambda name: prefix + names.get(name, name))


def _maps(maps: Mapping[str, Any], encoder: MaskedPretrainingConfig, unet: JsonDict, source: str) -> JsonDict:
    """Return the arguments of the maps. `unet`: its config.json."""
    sizes = []
    for name in ("channel_mapper.0.weight", "channel_mapper.1.weight"):
        if name not in maps or not maps[name].shape or not maps[name].shape[0]:
            raise UserError(f"{source}: there is no {MAPS}{name}, which determines the maps' sizes")
        sizes.append(int(maps[name].shape[0]))
    aligned = maps["mapping.fc.weight"].shape if "mapping.fc.weight" in maps else ()
    timed = any(name.startswith(TIME) for name in maps)
    return {
        "tokens": encoder.patches,
        "dim": encoder.model.dim,
        "hidden": sizes[0],
        "context_tokens": sizes[1],
        "context_dim": unet["cross_attention_dim"],
        "embedding_dim": int(aligned[0]) if aligned else 0,
        "time_dim": 4 * unet["block_out_channels"][0] if timed else 0,
    }


def _scheduler(state: Mapping[str, Any], usual: JsonDict, source: str) -> JsonDict:
    """Return scheduler_config.json: `usual`, with the betas where they are not nearly Stable Diffusion's."""
    stored = state.get("betas")
    if stored is None:
        return usual
    if len(getattr(stored, "shape", ())) != 1 or not stored.shape[0]:
        raise UserError(f"{source}: betas is not a list of numbers, one for each time step")
    betas = np.asarray(stored, np.float64)
    if not (np.isfinite(betas).all() and (betas > 0).all() and (betas < 1).all()):
        raise UserError(f"{source}: betas has a number outside of 0 to 1; fetch the file again")
    if len(betas) == usual["num_train_timesteps"] and np.allclose(
        betas, schedules.betas(schedules.STABLE_DIFFUSION), rtol=1e-5, atol=0
    ):
        return usual
    return usual | {"num_train_timesteps": len(betas), "trained_betas": [float(beta) for beta in betas]}


def _config(system: type["DreamDiffusion"], encoder: MaskedPretrainingConfig, maps: JsonDict) -> "DreamDiffusionConfig":
    """Return the run's config. `maps`: their arguments."""
    config = system.Config()
    model = {name: maps[name] for name in ("hidden", "context_tokens", "embedding_dim")}
    model |= {"time_condition": maps["time_dim"] > 0, "path": f"{location.RUN}/{PARTS}", "trainable": TRAINED}
    loss = {"alignment": "cosine" if maps["embedding_dim"] else "none", "drop_condition": 0.0}
    return dataclasses.replace(
        config,
        data=encoder.data,
        encoder=dataclasses.replace(config.encoder, model=encoder.model, cls_token=False),
        model=dataclasses.replace(config.model, **model),
        loss=dataclasses.replace(config.loss, **loss),
    )
