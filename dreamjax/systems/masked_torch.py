"""Export the masked autoencoder to PyTorch's files, and import its checkpoints as runs.

A run is exported as config.json (arguments of the model, and its origin under "dreamjax"), model.safetensors (under
DreamDiffusion's names), modeling_dreamjax.py (`pytorch/masked_autoencoder.py`), parity.safetensors (an input and
dreamjax's outputs for it) and README.md.

Imported are such folders, DreamDiffusion's masked autoencoder (`checkpoint.pth`), the encoder in its generative
checkpoint, and plain state dicts under the same names. Every size is read off the tensors.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.runs import provenance
from dreamjax.signals.datasets import augment
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.systems import opening
from dreamjax.systems.base import Run
from dreamjax.systems.exchange import Checkpoint, Component, Exported, Format, Imported, ImportOptions
from dreamjax.training.task import PyTree
from dreamjax.typing import JsonDict
from dreamjax.weights import masked_autoencoder as names

if TYPE_CHECKING:
    from dreamjax.systems.masked_pretraining import MaskedPretraining, MaskedPretrainingConfig

PYTORCH = Path(__file__).parent / "pytorch"  # stand-alone files that users get
MODULE = "modeling_dreamjax"
CHECK = f'import {MODULE}\ndifferences = {MODULE}.check_parity(".")'
WINDOWS = 2  # of the parity arrays
GENERATIVE = "cond_stage_model.mae."  # prefix of the encoder in the generative checkpoint
KERNEL, HIDDEN = "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"
HEAD_DIM = 64  # assumed where no configuration states the number of heads
HEAD = ("final_layer.weight", "final_layer.bias")  # of a classifier, which a run of pretraining has no place for


# -------------------------------------------------------------------------------------------------------------- exports
def export(task: "MaskedPretraining", run: Run, format: Format) -> Exported:
    """Return the folder that a PyTorch user loads in one line."""
    config, mask = task.config, task.config.mask
    masking = f"{', '.join(mask.kinds)}, share {', '.join(f'{ratio:g}' for ratio in mask.ratios)} of the patches"
    if config.data.mask_channels:
        masking += f", {config.data.mask_channels:g} of the channels"
    channels = provenance.channels_of(config.data, run.workdir, config.model.channels)
    tensors = names.with_positions(names.TABLE.to_torch(run.params), config.patches)
    source = (PYTORCH / "masked_autoencoder.py").read_text(encoding="utf-8")
    return Exported(
        {"": Component(model_config(config, channels), tensors, {f"{MODULE}.py": source})},
        parity(task, run.params),
        CHECK,
        facts={
            "mask": dataclasses.asdict(mask),
            "data": {name: getattr(config.data, name) for name in ("montage", "mapping", "stretch", "mask_channels")},
            "loss": dataclasses.asdict(config.loss),
        },
        template="reports/templates/model_card.md.j2",
        values={
            "model": config.model,
            "data": config.data,
            "samples": config.data.samples,
            "sfreq": config.data.sfreq,
            "tokens": config.patches,
            "scaling": scaling_in_words(config),
            "masking": masking,
            "target": config.loss.target,
            "channels": channels,
        },
    )


def model_config(config: "MaskedPretrainingConfig", chs_info: Sequence[Mapping[str, object]] | None) -> JsonDict:
    """Return the arguments of the PyTorch file's `MaskedAutoencoder`, in braindecode's names."""
    model, data = config.model, config.data
    return {
        "n_outputs": None,
        "n_chans": model.channels,
        "chs_info": chs_info,
        "n_times": data.samples,
        "input_window_seconds": data.samples / data.sfreq,
        "sfreq": data.sfreq,
        "patch_size": model.patch,
        "embed_dim": model.dim,
        "depth": model.depth,
        "num_heads": model.heads,
        "mlp_ratio": model.mlp_ratio,
        "decoder_embed_dim": model.decoder_dim,
        "decoder_depth": model.decoder_depth,
        "decoder_num_heads": model.decoder_heads,
        "cls_token": model.cls_token,
        "learned_positions": model.positions == "learned",
        "spectrum_points": model.spectrum_points if model.interpolation == "gaussian" else 0,
        "scaling": data.scaling,
        "divide": data.divide,
        "clip": data.clip,
        "target": config.loss.target,
    }


def parity(task: "MaskedPretraining", params: PyTree) -> dict[str, np.ndarray]:
    """Return `input` in µV and its `tokens`, `pooled` and `reconstruction` (of the patches in `masked`)."""
    config = task.config
    model = dataclasses.replace(config.model, dtype="float32", attention="xla")
    exact = dataclasses.replace(task, config=dataclasses.replace(config, model=model))
    arrays, signal, gain, offset = noise_like_eeg(config, WINDOWS)
    with jax.default_matmul_precision("highest"), jax.enable_x64(True):  # for what solves equations, see `models`
        arrays |= jax.jit(exact.embed)(params, signal)._asdict()
        if model.decoder_depth and config.loss.target == "raw":
            masked = np.random.default_rng(1).random((WINDOWS, config.patches)) < 0.75
            scaled = np.asarray(jax.jit(exact.reconstruct)(params, signal, masked))
            arrays |= {"masked": masked, "reconstruction": scaled * gain[:, :, None] + offset[:, :, None]}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def noise_like_eeg(
    config: "MaskedPretrainingConfig", windows: int
) -> tuple[JsonDict, np.ndarray, np.ndarray, np.ndarray]:
    """Return noise with the spectrum and amplitude of EEG as (arrays, scaled signal, gain, offset).

    The arrays: `input` [windows, C, T] in µV, and for scaling "robust" its `scale`.
    """
    rng, data = np.random.default_rng(0), config.data
    hertz = np.fft.rfftfreq(data.samples, 1 / data.sfreq)
    shape = np.exp(-((hertz / 60) ** 2)) / np.maximum(hertz, 1)  # 1/f, as filtered EEG has it
    noise = rng.standard_normal((windows, config.model.channels, data.samples))
    microvolts = np.fft.irfft(np.fft.rfft(noise) * shape, data.samples)
    arrays = {"input": (20 * microvolts / microvolts.std()).astype(np.float32)}
    if data.scaling == "robust":
        arrays["scale"] = np.linspace(10, 20, windows).astype(np.float32)
    scale, valid = arrays.get("scale", np.ones(windows, np.float32)), np.ones((windows, data.samples), bool)
    return arrays, *augment.in_units(arrays["input"], scale, valid, data.scaling, data.divide, data.clip)


def scaling_in_words(config: "MaskedPretrainingConfig") -> str:
    """Return a clause on how the exported model scales µV."""
    data = config.data
    how = {
        "divide": f"divides by {data.divide:g} µV",
        "robust": "divides by the recording's robust scale (`scale=`; without it each window's own)",
        "zscore": "z-scores each channel of a window",
    }[data.scaling]
    return f"{how}, clips at ± {data.clip:g}" if data.clip else how


# -------------------------------------------------------------------------------------------------------------- imports
@dataclass
class EncoderCheckpoint:
    """Tensors under DreamDiffusion's names, and their known settings."""

    format: str
    tensors: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)  # groups of MaskedPretrainingConfig that are known
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def imported(system: type["MaskedPretraining"], checkpoint: Checkpoint, options: ImportOptions) -> Imported | None:
    """Return the run of a checkpoint; None for one of another kind, including a whole generative checkpoint."""
    generative = any(name.startswith(GENERATIVE) for name in checkpoint.tensors)
    if generative and options.part == "whole":
        return None
    if generative:
        encoder = of_generative(checkpoint)
    elif KERNEL not in checkpoint.tensors and HIDDEN not in checkpoint.tensors:
        return None
    elif options.part == "encoder":
        raise UserError(f"{checkpoint.source}: not a generative checkpoint, of which a part is taken; leave out --part")
    else:
        encoder = of_export(checkpoint) if checkpoint.exported else of_masked_autoencoder(checkpoint)
    config = config_of(system, encoder, checkpoint.source, options)
    params = names.TABLE.to_dreamjax(encoder.tensors, shapes_of(system, config), checkpoint.source)
    step = str(encoder.provenance.get("exported", {}).get("step", ""))  # of training, where the source names it
    return Imported(
        encoder.format,
        config,
        params,
        opening.parameter_count(params),
        in_words(config),
        encoder.notes,
        encoder.provenance,
        step=int(step) if step.isdecimal() and len(step) < 10 else 1,  # 0 means untrained
    )


def shapes_of(system: type["MaskedPretraining"], config: "MaskedPretrainingConfig") -> PyTree:
    """Return the shapes of a model's parameters."""
    return jax.eval_shape(lambda: system(config).init(jax.random.key(0))).params


def of_masked_autoencoder(checkpoint: Checkpoint) -> EncoderCheckpoint:
    """Return the encoder of a checkpoint of DreamDiffusion's stage A, or of a state dict under its names."""
    settings = checkpoint.settings
    tensors = torch_files.tensors(checkpoint.tensors, checkpoint.source)
    config: dict[str, Any] = {"model": _heads(settings), "data": {"divide": 10.0}}
    if isinstance(settings.get("mask_ratio"), float):
        config["mask"] = {"ratio": settings["mask_ratio"]}
    return EncoderCheckpoint("a masked autoencoder under DreamDiffusion's names", tensors, config)


def of_generative(checkpoint: Checkpoint) -> EncoderCheckpoint:
    """Return the encoder as stage B has fine-tuned it: without decoder and cls token, and with trained positions."""
    inside = {n.removeprefix(GENERATIVE): v for n, v in checkpoint.tensors.items() if n.startswith(GENERATIVE)}
    tensors = torch_files.tensors(inside, checkpoint.source)
    notes = [
        f"{unused} was left out: the fine-tuned encoder does not use it"
        for unused in ("cls_token", "mask_token")
        if tensors.pop(unused, None) is not None
    ]
    notes.append("stage B does not divide its input by 10 as stage A does, so data.divide is 1 (--divide)")
    config = {"model": _heads(checkpoint.settings) | {"cls_token": False}, "data": {"divide": 1.0}}
    return EncoderCheckpoint("the encoder of DreamDiffusion's generative checkpoint", tensors, config, notes=notes)


def of_export(checkpoint: Checkpoint) -> EncoderCheckpoint:
    """Return the encoder of our export, also as `save_pretrained` wrote it after fine-tuning in PyTorch."""
    settings, facts = checkpoint.settings, checkpoint.settings["dreamjax"]
    if not isinstance(facts.get("data"), Mapping):
        raise UserError(f"{checkpoint.source}/config.json: dreamjax.data is missing; export the run again")
    tensors, preprocessing = dict(checkpoint.tensors), facts.get("preprocessing")
    corpora, channels = facts.get("corpora"), settings.get("chs_info")
    head = [name for name in HEAD if tensors.pop(name, None) is not None]
    config = {
        "model": {"heads": settings.get("num_heads"), "decoder_heads": settings.get("decoder_num_heads")},
        "data": {**facts["data"], **{name: settings.get(name) for name in ("sfreq", "scaling", "divide", "clip")}},
        "mask": facts.get("mask", {}),
        "loss": facts.get("loss", {}),
    }
    origin = {
        "corpora": corpora if _list_licences(corpora) else None,
        "preprocessing": preprocessing if isinstance(preprocessing, list) else [],
        "reference": str(facts.get("reference", "unknown")),
        "channels": channels if _are_named(channels) else None,
        "exported": {name: str(facts.get(name)) for name in ("version", "step", "config_sha256")},
    }
    notes = ["final_layer was left out: a pretraining run has no head"] if head else []
    return EncoderCheckpoint("a folder that dreamjax exported", tensors, config, origin, notes)


def _list_licences(corpora: object) -> bool:
    """Return whether every corpus lists its licences as text; otherwise they are unknown."""
    if not isinstance(corpora, dict) or not all(isinstance(corpus, dict) for corpus in corpora.values()):
        return False
    listed = [corpus.get("licences") for corpus in corpora.values()]
    return all(isinstance(names, list) and names and all(isinstance(x, str) for x in names) for names in listed)


def _are_named(channels: object) -> bool:
    return isinstance(channels, list) and all(
        isinstance(channel, dict) and isinstance(channel.get("ch_name"), str) for channel in channels
    )


def _heads(settings: Mapping[str, Any]) -> dict[str, int]:
    known = {"heads": settings.get("num_heads"), "decoder_heads": settings.get("decoder_num_heads")}
    return {name: value for name, value in known.items() if isinstance(value, int)}


def in_words(config: "MaskedPretrainingConfig") -> dict[str, str | None]:
    """Return a description of a model's sizes."""
    model = config.model
    return {
        "encoder": f"{model.depth} x {model.dim}, {model.heads} heads",
        "decoder": f"{model.decoder_depth} x {model.decoder_dim}" if model.decoder_depth else None,
        "input": f"{model.channels} channels x {config.data.samples} samples, {model.patch} to a token",
        "positions": model.positions,
    }


def config_of(
    system: type["MaskedPretraining"], encoder: EncoderCheckpoint, source: str, options: ImportOptions
) -> "MaskedPretrainingConfig":
    """Return the run's config: sizes from the tensors, the rest from the options, the checkpoint, or assumed in a note.

    Tensors that the model computes itself are removed from `encoder`.
    """
    sizes = _sizes(encoder.tensors, source)
    given = {name: n for name in ("heads", "decoder_heads") if (n := getattr(options, name)) is not None}
    model: dict[str, Any] = sizes | encoder.config.get("model", {}) | given
    if "heads" not in model:
        model["heads"] = max(1, sizes["dim"] // HEAD_DIM)
        encoder.notes.append(f"the number of heads is not stored: {model['heads']} of {HEAD_DIM} assumed (--heads)")
    if "decoder_heads" not in model:
        model["decoder_heads"] = model["heads"]
        if sizes["decoder_depth"]:
            encoder.notes.append(f"decoder heads are not stored: {model['heads']} assumed (--decoder-heads)")
    if not sizes["decoder_depth"]:  # sizes of the missing decoder: any valid ones
        if "decoder_heads" in given:
            raise UserError(f"{source}: there is no decoder in it; leave out --decoder-heads")
        model |= {"decoder_dim": model["dim"], "decoder_heads": model["heads"]}
    samples = _positions(encoder, model, source) * sizes["patch"]
    base: dict[str, Any] = {"montage": "own", "mapping": "tile", "tile_channels": sizes["channels"], "stretch": True}
    base |= {"scaling": "divide", "clip": 0.0, "samples": samples}
    given = {name: x for name in ("divide", "sfreq") if (x := getattr(options, name)) is not None}
    data: dict[str, Any] = base | encoder.config.get("data", {}) | given
    groups: dict[str, Any] = {name: encoder.config[name] for name in ("mask", "loss") if name in encoder.config}
    tree = ConfigDict({"system": system.name, "model": model, "data": data, **groups})
    return configs.to_dataclass(system.Config, tree, source)


def _sizes(tensors: Mapping[str, Any], source: str) -> JsonDict:
    """Return the fields of the model's config that the shapes determine."""
    if lacking := [name for name in (KERNEL, HIDDEN) if name not in tensors]:
        some = ", ".join(list(tensors)[:5])
        raise UserError(
            f"{source}: not a masked-signal encoder: there is no {' and no '.join(lacking)} among its "
            f"{len(tensors)} tensors ({some} …)"
        )
    kernel, hidden = tensors[KERNEL].shape, tensors[HIDDEN].shape
    if len(kernel) != 3 or len(hidden) != 2:
        raise UserError(f"{source}: {KERNEL} has shape {tuple(kernel)}; expected (dim, channels, patch)")
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
    """Return the mlp_ratio for which int(dim · ratio) is the hidden width of the encoder, and of a decoder too."""
    shapes = [tensors[name].shape for name in (HIDDEN, f"decoder_{HIDDEN}") if name in tensors]
    sizes = [shape for shape in shapes if len(shape) == 2]  # (hidden, dim)
    low, high = max(hidden / dim for hidden, dim in sizes), min((hidden + 1) / dim for hidden, dim in sizes)
    for ratio in (low, (low + high) / 2):
        if all(int(dim * ratio) == hidden for hidden, dim in sizes):
            return ratio
    return sizes[0][0] / sizes[0][1]  # no ratio fits both: the table names what does not fit


def _positions(encoder: EncoderCheckpoint, model: JsonDict, source: str) -> int:
    """Return the number of patches; set model["positions"], and drop positions that the model computes by itself."""
    stored = encoder.tensors.get("pos_embed")
    if stored is None:
        model["positions"] = "learned"  # so that pos_embed is reported among the missing names
        return 1
    if len(stored.shape) != 3 or stored.shape[1] < 2:
        raise UserError(f"{source}: pos_embed has shape {tuple(stored.shape)}; expected (1, 1 + tokens, dim)")
    decoder = encoder.tensors.pop("decoder_pos_embed", None)
    if decoder is not None and not names.is_fixed(decoder):
        raise UserError(f"{source}: decoder_pos_embed was trained, which dreamjax's decoder cannot represent")
    if names.is_fixed(stored):
        model["positions"] = "sincos"
        del encoder.tensors["pos_embed"]
    else:
        model["positions"] = "learned"
        encoder.notes.append("pos_embed is not the fixed sines and cosines; it was kept as a trained parameter")
    return stored.shape[1] - 1
