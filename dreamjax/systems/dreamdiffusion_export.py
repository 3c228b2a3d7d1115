"""Export DreamDiffusion for diffusers: images from EEG without JAX.

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe(eeg)

model_index.json, pipeline.py      the pipeline: `pytorch/dreamdiffusion_pipeline.py`, copied
eeg_encoder/                       the encoder and the maps, with their code: `pytorch/eeg_encoder.py`
unet/                              trained tensors; frozen tensors have their original bytes
vae/, scheduler/                   copies of the original bytes
parity.safetensors                 an input and dreamjax's outputs for it, images included
provenance.json, README.md         the origin; the model card
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath

from dreamjax.diffusion import sampling
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs import provenance
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.systems import image_export, masked_torch
from dreamjax.systems.base import Run
from dreamjax.systems.diffusion_base import CLASSES, COMPARED
from dreamjax.systems.exchange import Component, Exported, Format
from dreamjax.systems.masked_torch import PYTORCH
from dreamjax.training.task import PyTree
from dreamjax.typing import JsonDict
from dreamjax.weights import conditioner
from dreamjax.weights import masked_autoencoder as names
from dreamjax.weights.pipeline_folder import INDEX

if TYPE_CHECKING:
    from dreamjax.systems.dreamdiffusion import DreamDiffusion

# the import that is replaced by the text of the file in an exported component
IMPORTED = "from dreamjax.systems.pytorch.masked_autoencoder import MaskedAutoencoder"
CHECK = 'import pipeline\ndifferences = pipeline.differences(".")'
WINDOWS, STEPS, GUIDANCE = 2, 2, 3.0  # of the images that are compared


def export(task: "DreamDiffusion", run: Run, format: Format) -> Exported:
    """Return the folder that `DiffusionPipeline.from_pretrained` opens."""
    mesh, config = meshes.make(MeshConfig()), task.config
    model = task.pipeline(run, mesh, dtype="float32", attention="auto")
    params, frozen = task.conditioning(run, mesh)
    unet = model.unet.params
    timed = {"class_embed_type": "identity"} if config.model.time_condition else {}
    encoder = Component(
        {"_class_name": "EEGEncoder", **_encoder_config(task, run)},
        _encoder_tensors(task, params, frozen),
        {"eeg_encoder.py": component_source()},
    )
    index = {
        "_class_name": ["pipeline", "DreamDiffusionPipeline"],
        "eeg_encoder": ["eeg_encoder", "EEGEncoder"],
        "scheduler": ["diffusers", task.parts.config("scheduler")["_class_name"]],
        **{name: CLASSES[name] for name in ("unet", "vae")},
    }
    facts = {
        "images": epath.Path(config.target.folder).name,
        "held_out": {"val": config.target.val_share, "test": config.target.test_share, "people": config.target.people},
        "data": {name: getattr(task.encoder.data, name) for name in ("montage", "mapping", "stretch")},
        "loss": dataclasses.asdict(config.loss),
        "trained": config.model.trainable,
        "base": "" if provenance.imported(run.workdir).get("origin") else epath.Path(config.model.path).name,
    }
    values = {
        "config": encoder.config,
        "scaling": masked_torch.scaling_in_words(task.encoder),
        "guided": task.guided,
        "sampler": model.schedule.sampler,
        "size": [side * model.factor for side in model.sample_size],
        **facts,
    }
    counted = (params.get("encoder", frozen.get("encoder")), params["conditioner"], unet, model.vae.params)
    return Exported(
        {"eeg_encoder": encoder, "unet": task.unet_component(unet, **timed)},
        parity(task, model, params, frozen),
        CHECK,
        {
            **{name: task.parts.path(name) for name in ("vae", "scheduler")},
            "pipeline.py": (PYTORCH / "dreamdiffusion_pipeline.py").read_text(encoding="utf-8"),
            INDEX: index,
        },
        facts,
        template="reports/templates/dreamdiffusion_card.md.j2",
        values=values,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(counted)),
    )


# --------------------------------------------------------------------------------------------------------- the encoder
def _encoder_tensors(task: "DreamDiffusion", params: PyTree, frozen: PyTree) -> dict[str, np.ndarray]:
    encoder = params["encoder"] if "encoder" in params else frozen["encoder"]
    tensors = names.with_positions(names.TABLE.to_torch(encoder), task.encoder.patches)
    tensors = {f"mae.{name}": tensor for name, tensor in tensors.items()}
    tensors |= conditioner.TABLE.to_torch(params["conditioner"])
    return tensors | ({"nothing": np.asarray(frozen["nothing"])} if task.guided else {})


def component_source() -> str:
    """Return one file without dreamjax: the component, and within it the model that it imports here."""
    lines = (PYTORCH / "eeg_encoder.py").read_text(encoding="utf-8").splitlines(keepends=True)
    (place,) = (i for i, line in enumerate(lines) if line.startswith(IMPORTED))
    # the model's docstring, and the code after its classes, describe a folder with only the encoder
    model = (PYTORCH / "masked_autoencoder.py").read_text(encoding="utf-8")
    model = model.partition("\n@torch.no_grad()\ndef check_parity")[0].partition('"""\n\n')[2]
    return "".join([*lines[:place], model.rstrip() + "\n", *lines[place + 1 :]])


def _encoder_config(task: "DreamDiffusion", run: Run) -> JsonDict:
    """Return the arguments of the PyTorch file's `EEGEncoder`."""
    channels = provenance.channels_of(task.encoder.data, run.workdir, task.encoder.model.channels)
    config = masked_torch.model_config(task.encoder, channels)
    kept = (
        *("n_chans", "n_times", "sfreq", "chs_info", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"),
        *("cls_token", "learned_positions", "scaling", "divide", "clip"),
    )
    maps = ("context_tokens", "context_dim", "hidden", "embedding_dim", "time_dim")
    return {
        **{name: config[name] for name in kept},
        **{name: task.conditioner.arguments[name] for name in maps},
        "unconditional": task.guided,
    }


# -------------------------------------------------------------------------------------------------------------- parity
def parity(task: "DreamDiffusion", model: LatentDiffusion, params: PyTree, frozen: PyTree) -> dict[str, np.ndarray]:
    """Return `eeg` in µV, initial `latents`, and dreamjax's outputs for them in float32, in PyTorch's layout.

    `context`, `time_offset`, `embedding`; `noise`, the U-Net's prediction at `timesteps`; `image`, after `steps` of
    the model's sampler under `guidance`.
    """
    arrays, signal, _, _ = masked_torch.noise_like_eeg(task.encoder, WINDOWS)
    valid = np.ones((WINDOWS, task.encoder.data.samples), np.float32)
    batch = {"signal": signal.astype(np.float32), "valid": valid}
    size = (min(model.sample_size[0], COMPARED), min(model.sample_size[1], COMPARED))
    start = np.random.default_rng(1).standard_normal((WINDOWS, *size, model.latent_channels)).astype(np.float32)
    timesteps = np.array([1, model.schedule.num_train_timesteps - 1], np.int64)
    guidance = GUIDANCE if task.guided else 1.0
    devices = model.mesh.shape["data"] * model.mesh.shape["fsdp"]
    index = np.arange(-(-WINDOWS // devices) * devices) % WINDOWS  # repeated until every device has as many

    def forward(params: PyTree, x: jax.Array, t: jax.Array, context: jax.Array, offset: Any) -> jax.Array:
        return model.unet.bound(params)(x, t, context, time_offset_BxE=offset)

    with jax.default_matmul_precision("highest"):
        with jax.set_mesh(model.mesh):
            computed = jax.jit(task.condition)(params, frozen, batch)
        conditions = {name: np.asarray(value) for name, value in computed.items()}
        given = {"noise": start, **{name: value for name, value in conditions.items() if name != "embedding"}}
        noise = jax.jit(forward)(
            model.unet.params, start, timesteps, conditions["context"], conditions.get("time_offset")
        )
        images, _ = model.generate(
            sampling.plan(None, model.schedule, STEPS),
            {"index": index.astype(np.uint32), **{name: array[index] for name, array in given.items()}},
            seed=0,
            size=size,
            unconditional=task.unconditional(params, frozen) if task.guided else None,
            scale=guidance,
        )
    arrays = {"eeg": arrays.pop("input"), **arrays, **conditions, "timesteps": timesteps}
    shown = {"latents": start, "noise": noise, "image": np.asarray(images)[:WINDOWS]}
    arrays |= {name: image_export.channels_first(array) for name, array in shown.items()}
    return arrays | {"steps": np.array(STEPS), "guidance": np.array(guidance, np.float32)}
