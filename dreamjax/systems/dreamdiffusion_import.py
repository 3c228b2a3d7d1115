"""DreamDiffusion's generative checkpoint, whole: the encoder, the maps, and all of Stable Diffusion but its text.

    model.diffusion_model.*         the U-Net under CompVis's names, and in it the maps to its time embedding
    first_stage_model.*             the autoencoder, likewise
    cond_stage_model.mae.*          the encoder; the maps beside it
    betas, …                        the noise schedule

It becomes a run, and a folder of diffusers within the run. Tensors go from file to file one after
another; in memory at once are those that stage B trains.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from dreamjax.diffusion import schedule as schedules
from dreamjax.errors import UserError
from dreamjax.models.conditioner import Conditioner
from dreamjax.models.keys import Keys
from dreamjax.parallel.tree_paths import nested
from dreamjax.runs import components
from dreamjax.runs import shapes as architectures
from dreamjax.storage import atomic
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.storage.checkpoint_files.torch_pickle import TorchTensor
from dreamjax.systems import masked_import
from dreamjax.systems.base import Checkpoint, Imported, ImportOptions
from dreamjax.systems.masked_import import GENERATIVE, EncoderCheckpoint
from dreamjax.systems.masked_pretraining import MaskedPretraining, MaskedPretrainingConfig
from dreamjax.training.task import PyTree
from dreamjax.typing import JsonDict
from dreamjax.weights import compvis, conditioner, networks, weight_files, writing
from dreamjax.weights import masked_autoencoder as encoder_names
from dreamjax.weights.pipeline_folder import CONFIGS, INDEX
from dreamjax.weights.table import TensorSlot, WeightMismatch, differences

if TYPE_CHECKING:
    from dreamjax.systems.dreamdiffusion import DreamDiffusion, DreamDiffusionConfig

PARTS = "stable-diffusion"  # the folder of diffusers within the run
STEM = "diffusion_pytorch_model"
UNET, VAE, MAPS = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
TIME = "time_embed_condtion."  # of the U-Net: the maps from the context to its time embedding
TRAINED = "cross_attention_and_norm"  # of the U-Net, as published
LIKE = "sd15"  # what no shape determines: heads, activations, groups, the schedule
UNUSED = (  # (prefix, what it is): nothing of an image comes from it
    ("image_embedder.", "the CLIP tower that stage B aligns with, whose layer_norm2 it trained by accident"),
    ("model_ema.", "averaged weights, which the published code never uses"),
    (f"{MAPS}cls_net.", "a classifier of the trials"),
    (f"{VAE}loss.", "the losses of the autoencoder's training"),
)


@dataclass(frozen=True)
class StoredNetwork:
    """A network in the checkpoint. `tensors`: under the names of `network`'s table, still in the file."""

    prefix: str
    network: networks.Network
    config: dict[str, Any]
    shapes: PyTree
    tensors: dict[str, Any]
    slots: dict[str, TensorSlot]
    names: dict[str, str]  # the table's → the checkpoint's, behind the prefix

    def checkpoint_name(self, name: str) -> str:
        """Return what the checkpoint calls a tensor."""
        return self.prefix + self.names.get(name, name)


@dataclass(frozen=True)
class GenerativeCheckpoint:
    """What the checkpoint holds, compared with what it should hold, and not read yet."""

    encoder: MaskedPretrainingConfig
    model: dict[str, Any]  # fields of the run's `model` that the maps determine
    unet: StoredNetwork
    vae: StoredNetwork
    scheduler: dict[str, Any]
    encoder_tensors: dict[str, Any]
    encoder_shapes: PyTree
    maps: dict[str, Any]
    maps_shapes: PyTree
    source: str

    @property
    def parameters(self) -> int:
        networks = (self.unet.shapes, self.vae.shapes, self.encoder_shapes, self.maps_shapes)
        return sum(leaf.size for leaf in jax.tree.leaves(networks))

    def in_words(self) -> str:
        """Return the sizes of the diffusion model for people."""
        unet, vae = (sum(x.size for x in jax.tree.leaves(part.shapes)) for part in (self.unet, self.vae))
        steps = self.scheduler["num_train_timesteps"]
        return f"U-Net of {unet:,} and autoencoder of {vae:,} parameters, {steps:,} time steps"

    def write_parts(self, folder: epath.Path) -> None:
        """Write Stable Diffusion without its text encoder as diffusers does, tensor by tensor."""
        for name, part in (("unet", self.unet), ("vae", self.vae)):
            (folder / name).mkdir(parents=True)
            atomic.write_text(folder / name / "config.json", json.dumps(part.config, indent=2, sort_keys=True) + "\n")
            tensors = {n: Shaped(part.tensors[n], place.shape) for n, place in part.slots.items()}
            writing.write_safetensors(folder / name, STEM, tensors)
        (folder / "scheduler").mkdir()
        text = json.dumps(self.scheduler, indent=2, sort_keys=True) + "\n"
        atomic.write_text(folder / "scheduler" / CONFIGS["scheduler"], text)
        index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
        absent = ("text_encoder", "tokenizer", "feature_extractor", "image_encoder", "safety_checker")
        index |= {name: [None, None] for name in absent}
        index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
        index |= {"scheduler": ["diffusers", self.scheduler["_class_name"]]}
        atomic.write_text(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")

    def params(self, trained: PyTree) -> JsonDict:
        """Return the parameters of the run. `trained`: shapes of what stage B trains of the U-Net."""
        leaves = self.unet.network.table.leaves(self.unet.tensors, trained, self.source, self.unet.shapes)
        return {
            "encoder": encoder_names.TABLE.to_dreamjax(self.encoder_tensors, self.encoder_shapes, self.source),
            "conditioner": conditioner.TABLE.to_dreamjax(self.maps, self.maps_shapes, self.source),
            "unet": nested(dict(leaves)),
        }


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
    """Return the run that a generative checkpoint becomes as a whole; None for another checkpoint."""
    generative = any(name.startswith(GENERATIVE) for name in checkpoint.tensors)
    if checkpoint.exported or not generative or options.part != "whole":
        return None
    encoder = masked_import.of_generative(checkpoint)
    config = masked_import.config_of(MaskedPretraining, encoder, checkpoint.source, options)
    whole = read(checkpoint, encoder, config)
    run = _config(system, whole)
    trained, _ = system(run).split({"encoder": {}, "unet": whole.unet.shapes})
    return Imported(
        "DreamDiffusion's generative checkpoint",
        run,
        whole.params(trained["unet"]),
        whole.parameters,
        {**masked_import.in_words(config), "diffusion": whole.in_words()},
        encoder.notes,
        write=lambda folder: whole.write_parts(folder / PARTS),
    )


def read(checkpoint: Checkpoint, encoder: EncoderCheckpoint, config: MaskedPretrainingConfig) -> GenerativeCheckpoint:
    """Return what a checkpoint holds. `encoder`, `config`: its encoder, which was looked at already.

    Raise UserError for a checkpoint that lacks a part, and WeightMismatch with every missing, extra and misshapen
    tensor of all parts, under the checkpoint's names, before any is read.
    """
    state, source = checkpoint.tensors, checkpoint.source
    unet, vae, maps = _groups(state, encoder.notes, source)
    usual = architectures.get(LIKE)
    stored_unet = _network(UNET, unet, compvis.unet_config(_shapes(unet), f"{source}: {UNET}*", usual["unet"]), source)
    usual["vae"] |= _scale(state)
    stored_vae = _network(VAE, vae, compvis.vae_config(_shapes(vae), f"{source}: {VAE}*", usual["vae"]), source)
    encoder_shapes = masked_import.shapes_of(MaskedPretraining, config)
    maps_shapes, model = _maps(maps, config, stored_unet, source)
    compared = (
        differences(stored_unet.slots, stored_unet.tensors, stored_unet.checkpoint_name),
        differences(stored_vae.slots, stored_vae.tensors, stored_vae.checkpoint_name),
        differences(encoder_names.TABLE.slots(encoder_shapes), encoder.tensors, lambda name: GENERATIVE + name),
        differences(conditioner.TABLE.slots(maps_shapes), maps, _checkpoint_name),
    )
    missing, extra = ([name for part in compared for name in part[i]] for i in (0, 1))
    misshapen = [problem for part in compared for problem in part[2].values()]
    if missing or extra or misshapen:
        raise WeightMismatch(source, missing, extra, misshapen)
    scheduler = _scheduler(state, usual["scheduler"], source)
    encoder.notes += [
        f"heads ({stored_unet.config['attention_head_dim']}), groups and activations, which no tensor determines, are "
        "those of Stable Diffusion 1",
        "there is no text encoder in it and no unconditional branch was trained, so it generates without guidance; as "
        "published: --sampler plms --steps 250 --guidance 1",
    ]
    tensors = _lazily(encoder.tensors)
    return GenerativeCheckpoint(
        config, model, stored_unet, stored_vae, scheduler, tensors, encoder_shapes, maps, maps_shapes, source
    )


def _groups(state: Mapping[str, Any], notes: list[str], source: str) -> tuple[JsonDict, ...]:
    """Return (U-Net, autoencoder, maps): each under the names behind its prefix, the time maps among the maps."""
    unused = {prefix: 0 for prefix, _ in UNUSED}
    others: list[str] = []
    groups: dict[str, dict[str, Any]] = {UNET: {}, VAE: {}, MAPS: {}}
    for name, value in state.items():
        dropped = next((prefix for prefix in unused if name.startswith(prefix)), None)
        prefix = next((prefix for prefix in groups if name.startswith(prefix)), None)
        if dropped is not None:
            unused[dropped] += 1
        elif prefix is None:
            others += [name] if "." in name else []  # the rest are buffers of the schedule
        elif not name.startswith(GENERATIVE):
            behind = name.removeprefix(prefix)
            groups[MAPS if behind.startswith(TIME) else prefix][behind] = value
    if lacking := [f"{prefix}*" for prefix, group in groups.items() if not group]:
        raise UserError(
            f"{source}: not a whole generative checkpoint: there is no {' and no '.join(lacking)} in "
            "it; take the encoder alone with --part encoder"
        )
    for prefix, what in UNUSED:
        if unused[prefix]:
            notes.append(f"{prefix}* ({unused[prefix]} tensors) was left out: {what}; not needed to generate")
    if others:
        notes.append(f"{len(others)} tensors of no known part were left out: {', '.join(others[:5])}")
    named = (
        {_checkpoint_name(name) if p == MAPS else p + name: v for name, v in group.items()}
        for p, group in groups.items()
    )
    for tensors in named:
        torch_files.tensors(tensors, source)
    return tuple(_lazily(group) for group in groups.values())


def _lazily(tensors: Mapping[str, Any]) -> JsonDict:
    """Return tensors that are copied out of the file whenever they are asked for, and not kept in memory."""
    return {name: weight_files.CopiedTensor(t) if isinstance(t, TorchTensor) else t for name, t in tensors.items()}


def _checkpoint_name(name: str) -> str:
    """Return what the checkpoint calls one of the maps."""
    return (UNET if name.startswith(TIME) else MAPS) + name


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _network(prefix: str, tensors: Mapping[str, Any], config: JsonDict, source: str) -> StoredNetwork:
    network = networks.of(config, source)
    shapes = network.shapes(network.arguments(config, f"{source}: {prefix}*"))
    slots = network.table.slots(shapes)
    if prefix == UNET:
        names = compvis.unet_names(slots, config["layers_per_block"])
    else:
        names = compvis.vae_names(slots, len(config["block_out_channels"]))
    back = {theirs: ours for ours, theirs in names.items()}
    tensors = {back.get(name, name): tensor for name, tensor in tensors.items()}
    return StoredNetwork(prefix, network, config, shapes, tensors, slots, names)


def _maps(
    maps: Mapping[str, Any], encoder: MaskedPretrainingConfig, unet: StoredNetwork, source: str
) -> tuple[PyTree, JsonDict]:
    """Return (shapes of the maps' parameters, the fields of the run's `model` that they determine)."""
    sizes = {}
    for name in ("channel_mapper.0.weight", "channel_mapper.1.weight"):
        if name not in maps or not maps[name].shape or not maps[name].shape[0]:
            raise UserError(f"{source}: there is no {MAPS}{name}, which determines the maps' sizes")
        sizes[name] = int(maps[name].shape[0])
    aligned = maps["mapping.fc.weight"].shape if "mapping.fc.weight" in maps else ()
    timed = any(name.startswith(TIME) for name in maps)
    hidden, tokens = sizes.values()
    arguments = {
        "tokens": encoder.patches,
        "dim": encoder.model.dim,
        "context_tokens": tokens,
        "context_dim": unet.config["cross_attention_dim"],
        "hidden": hidden,
        "embedding_dim": int(aligned[0]) if aligned else 0,
        "time_dim": 4 * unet.config["block_out_channels"][0] if timed else 0,
    }
    module = nnx.eval_shape(lambda: Conditioner(**arguments, rngs=Keys(jax.random.key(0))))
    fields = {name: arguments[name] for name in ("hidden", "context_tokens", "embedding_dim")}
    return nnx.to_pure_dict(nnx.state(module, nnx.Param)), fields | {"time_condition": timed}


def _scale(state: Mapping[str, Any]) -> dict[str, float]:
    """Return the latents' scale, where the checkpoint has one."""
    stored = state.get("scale_factor")
    return {"scaling_factor": float(np.asarray(stored))} if getattr(stored, "shape", None) == () else {}


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


def _config(system: type["DreamDiffusion"], whole: GenerativeCheckpoint) -> "DreamDiffusionConfig":
    """Return the run's config."""
    config, encoder = system.Config(), whole.encoder
    model = {"path": f"{components.RUN}/{PARTS}", "trainable": TRAINED, **whole.model}
    loss = {"alignment": "cosine" if whole.model["embedding_dim"] else "none", "drop_condition": 0.0}
    return dataclasses.replace(
        config,
        data=encoder.data,
        encoder=dataclasses.replace(config.encoder, model=encoder.model, cls_token=False),
        model=dataclasses.replace(config.model, **model),
        loss=dataclasses.replace(config.loss, **loss),
    )
