"""A checkpoint from elsewhere → a run directory that evaluates, generates and exports like our own.

Taken are DreamDiffusion's masked autoencoder (`checkpoint.pth`), its fine-tuned generative model (whole, or the encoder
in it), plain state dicts under the same names, and the folders that `dreamjax export --to torch` writes. Every size is
read off the tensors; nothing in the file is executed (see `storage.checkpoint_files.pickle_reader`).
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

import jax
from etils import epath

from dreamjax import config as configs
from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.export import foreign_encoder, foreign_folder, foreign_generative, training_data
from dreamjax.export.foreign_encoder import Found
from dreamjax.storage import atomic, manifest, paths
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.systems import masked_pretraining, opening
from dreamjax.training import checkpoints
from dreamjax.weights import masked_autoencoder as names


def import_checkpoint(
    checkpoint: epath.PathLike,
    out: epath.PathLike,
    *,
    part: Literal["whole", "encoder"] = "whole",
    heads: int | None = None,
    decoder_heads: int | None = None,
    divide: float | None = None,
    sfreq: float | None = None,
) -> dict[str, Any]:
    """Write the run directory `out`; returns what the command says.

    `part`: of a generative checkpoint, all of it (a run of dreamdiffusion) or the encoder alone (one of
    masked_pretraining, which every other file becomes). `heads`, `decoder_heads`: for a state dict without a
    configuration. `divide`, `sfreq`: µV per unit and Hz of what the model was trained on, which DreamDiffusion's
    checkpoints do not record.

    Raises UserError for a file that is no such checkpoint, WeightMismatch with every missing, extra and misshapen
    tensor, and UserError where `out` exists.
    """
    out, place = paths.reachable(out), epath.Path(checkpoint)
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out or delete it")
    _refuse_familiar(place)
    given = {"heads": heads, "decoder_heads": decoder_heads}
    data = {"divide": divide, "sfreq": sfreq}
    if foreign_folder.is_export(place):
        found, whole = foreign_folder.read(place, Found), None
    else:
        state, settings = _state(place)
        generative = any(name.startswith(foreign_encoder.GENERATIVE) for name in state)
        if part == "encoder" and not generative:
            raise UserError(f"{place}: this is no generative checkpoint, of which a part is taken; leave out --part")
        read = foreign_encoder.of_generative if generative else _masked_autoencoder
        found = read(state, settings, str(place))
        whole = state if generative and part == "whole" else None
    config = foreign_encoder.config_of(found, str(checkpoint), given, data)
    like = jax.eval_shape(lambda: masked_pretraining.init_params(config, jax.random.key(0)))
    if whole is not None:
        return _write_whole(place, out, foreign_generative.read(whole, found, config, like, str(checkpoint)), found)
    params = names.TABLE.to_dreamjax(found.tensors, like, str(checkpoint))
    weights_file = place / "model.safetensors" if place.is_dir() else place
    origin = {"format": found.format, "sha256": manifest.file_hash(weights_file)}
    with atomic.new_folder(out, last="config.json") as folder:
        checkpoints.save_params_as_run(folder, configs.to_json(config), params, _step(found))
        _write_provenance(folder, origin, found)
    return {
        "out": str(out),
        **origin,
        "parameters": opening.parameter_count(params),
        **_encoder_in_words(config),
        "notes": _told(found),
    }


def _refuse_familiar(place: epath.Path) -> None:
    """Raises UserError for what other verbs open as it is, and for a part of what this one opens."""
    if (place / "model_index.json").exists():
        raise UserError(f"{place}: this is a pipeline of diffusers; dreamjax generate --model opens it as it is")
    if (place / "checkpoints").is_dir():
        raise UserError(f"{place}: this is a run of dreamjax already; evaluate, generate and export take it as it is")
    if place.is_dir() and not foreign_folder.is_export(place):
        raise UserError(f"{place}: this folder has no config.json or no model.safetensors, so it is no export to torch")
    if place.suffix == ".safetensors":
        raise UserError(f"{place}: give the folder that dreamjax export --to torch wrote around it, or a .pth file")


def _write_whole(place: epath.Path, out: epath.Path, whole: foreign_generative.Whole, found: Found) -> dict[str, Any]:
    """The run of dreamdiffusion, Stable Diffusion's parts in a folder of it."""
    origin = {"format": whole.format, "sha256": manifest.file_hash(place)}
    with atomic.new_folder(out, last="config.json") as folder:
        whole.write_parts(folder / foreign_generative.PARTS)
        params = whole.params()
        checkpoints.save_params_as_run(folder, configs.to_json(whole.config), params, _step(found))
        _write_provenance(folder, origin, found)
    return {
        "out": str(out),
        **origin,
        "parameters": whole.parameters,
        **_encoder_in_words(whole.encoder),
        "diffusion": whole.in_words(),
        "notes": _told(found),
    }


def _write_provenance(folder: epath.Path, origin: dict[str, str], found: Found) -> None:
    said = {"origin": origin, "notes": found.notes, **found.provenance}
    atomic.write_text(folder / training_data.NAME, json.dumps(said, indent=1))


def _told(found: Found) -> list[str]:
    for note in found.notes:
        log.warning("%s", note)
    return found.notes


def _encoder_in_words(config: masked_pretraining.MaskedPretrainingConfig) -> dict[str, Any]:
    model = config.model
    return {
        "encoder": f"{model.depth} x {model.dim}, {model.heads} heads",
        "decoder": f"{model.decoder_depth} x {model.decoder_dim}" if model.decoder_depth else None,
        "input": f"{model.channels} channels x {config.data.samples} samples, {model.patch} to a token",
        "positions": model.positions,
    }


def _step(found: Found) -> int:
    """The training step that the source names; 1 where it names none, for step 0 means untrained."""
    step = str(found.provenance.get("exported", {}).get("step", ""))
    return int(step) if step.isdecimal() and len(step) < 10 else 1


# -------------------------------------------------------------------------------------------------- pickled checkpoints
def _state(path: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state dict, settings) of a `.pth` file; the settings are those that training pickled beside it."""
    tree = torch_files.read(path)
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: this file holds no state dict; give a checkpoint of a masked autoencoder")
    state = next((tree[key] for key in ("model", "model_state_dict", "state_dict") if key in tree), tree)
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: its weights are no state dict; save model.state_dict() and not the model")
    found = {str(name).removeprefix("module."): value for name, value in state.items()}
    return found, foreign_encoder.attributes(tree.get("config"))


def _masked_autoencoder(state: Mapping[str, Any], settings: dict[str, Any], source: str) -> Found:
    found = Found("a masked autoencoder under DreamDiffusion's names", torch_files.tensors(state, source))
    found.config = {"model": foreign_encoder.heads(settings), "data": {"divide": 10.0}}
    if isinstance(settings.get("mask_ratio"), float):
        found.config["mask"] = {"ratio": settings["mask_ratio"]}
    return found
