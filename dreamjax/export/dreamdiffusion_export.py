"""A dreamdiffusion run → a folder that diffusers opens, and that makes images of EEG without JAX.

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe(eeg)

model_index.json, pipeline.py      the pipeline: `dreamdiffusion_pipeline.py`, copied
eeg_encoder/                       the encoder and the maps, with a file of their own: `eeg_component.py`
unet/                              what was trained; frozen tensors are original bytes
vae/, scheduler/                   as they were: copies of the original bytes
parity.safetensors                 an input and what dreamjax makes of it, images included
provenance.json, README.md         where it comes from; the model card
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from etils import epath

import dreamjax
from dreamjax.diffusion import sampling
from dreamjax.export import torch_export, training_data
from dreamjax.export.comparison import Compare, Library
from dreamjax.export.diffusers_export import TOLERANCE
from dreamjax.export.pipeline_export import STEM, write_unet
from dreamjax.generation import from_trials
from dreamjax.reports import image_report, templates
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.storage import manifest, sniffing
from dreamjax.storage.checkpoint_files import safetensors_files
from dreamjax.systems import opening
from dreamjax.systems.dreamdiffusion import TRAINABLE, DreamDiffusion
from dreamjax.systems.opening import Run
from dreamjax.weights import conditioner, writing
from dreamjax.weights import masked_autoencoder as names
from dreamjax.weights.pipeline_folder import INDEX
from dreamjax.weights.table import keep

HERE = Path(__file__).parent
PIPELINE, COMPONENT, MODEL = "dreamdiffusion_pipeline.py", "eeg_component.py", "torch_model.py"
# the import that a folder's component has the text of the file in place of
IMPORTED = "from dreamjax.export.torch_model import MaskedAutoencoder"
FACTS = "provenance.json"
CLASSES = {
    "_class_name": ["pipeline", "DreamDiffusionPipeline"],
    "eeg_encoder": ["eeg_encoder", "EEGEncoder"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
LIBRARY = Library(
    "diffusers",
    "from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel",
    """
import pipeline
found = pipeline.differences(".")
""",
)
SIDE = 32  # of the latents that are compared, at most
WINDOWS, STEPS, GUIDANCE = 2, 2, 3.0  # of the images that are compared


def _system(dreamer: from_trials.TrialGenerator) -> DreamDiffusion:
    return cast(DreamDiffusion, dreamer.task)


def write(folder: epath.Path, run: Run, compare: Compare) -> dict[str, Any]:
    """Every file of the export, in an existing folder; returns what the command says of it."""
    task: DreamDiffusion = run.task  # type: ignore[assignment]
    dreamer = from_trials.TrialGenerator.open(run)
    unet = dreamer.model.unet.params
    timed = {"class_embed_type": "identity"} if task.config.model.time_condition else {}
    write_unet(
        folder / "unet",
        task.parts,
        task.unet[0],
        unet,
        keep(unet, TRAINABLE[task.config.model.trainable]),
        **timed,
    )
    for name in ("vae", "scheduler"):
        writing.copy_component(task.parts.path(name), folder / name)
    facts = _facts(run)
    parameters = _write_encoder(folder / "eeg_encoder", dreamer, facts.pop("channels"))
    (folder / "pipeline.py").write_text((HERE / PIPELINE).read_text(encoding="utf-8"))
    scheduler = ["diffusers", task.parts.config("scheduler")["_class_name"]]
    index = json.dumps(CLASSES | {"scheduler": scheduler}, indent=2, sort_keys=True)
    safetensors_files.write(folder / "parity.safetensors", parity(dreamer))
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "README.md").write_text(_card(dreamer, facts, folder))
    (folder / INDEX).write_text(index + "\n")
    differences = compare(folder)
    return {
        "parameters": parameters + sum(leaf.size for leaf in jax.tree.leaves((unet, dreamer.model.vae.params))),
        "differences": differences,
    }


# --------------------------------------------------------------------------------------------------------- the encoder
def _write_encoder(folder: epath.Path, dreamer: from_trials.TrialGenerator, channels: Any) -> int:
    """The component's code, config and weights; returns how many parameters."""
    params, frozen = dreamer.conditioning
    encoder = params["encoder"] if "encoder" in params else frozen["encoder"]
    tensors = names.with_positions(names.TABLE.to_torch(encoder), _system(dreamer).encoder.patches)
    tensors = {f"mae.{name}": tensor for name, tensor in tensors.items()}
    tensors |= conditioner.TABLE.to_torch(params["conditioner"])
    if dreamer.task.guided:
        tensors["nothing"] = np.asarray(frozen["nothing"])
    folder.mkdir(parents=True)
    (folder / "eeg_encoder.py").write_text(component())
    config = {"_class_name": "EEGEncoder", **_encoder_config(_system(dreamer), channels)}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    writing.write_safetensors(folder, STEM, tensors)
    return opening.parameter_count(encoder) + opening.parameter_count(params["conditioner"])


def component() -> str:
    """One file without dreamjax: the component, and within it the model that it imports here."""
    outer, model = ((HERE / name).read_text(encoding="utf-8") for name in (COMPONENT, MODEL))
    lines = outer.splitlines(keepends=True)
    (place,) = (i for i, line in enumerate(lines) if line.startswith(IMPORTED))
    own = model.partition("\n@torch.no_grad()\ndef check_parity")[0]  # what follows compares a folder of its own
    own = own.partition('"""\n\n')[2]  # its docstring is about that folder, too
    return "".join([*lines[:place], own.rstrip() + "\n", *lines[place + 1 :]])


def _encoder_config(task: DreamDiffusion, channels: Any) -> dict[str, Any]:
    """The arguments of `eeg_component.EEGEncoder`."""
    described = torch_export.model_config(task.encoder, channels)
    own = (
        *("n_chans", "n_times", "sfreq", "chs_info", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"),
        *("cls_token", "learned_positions", "scaling", "divide", "clip"),
    )
    tokens, dim = task.context_shape
    return {
        **{name: described[name] for name in own},
        "context_tokens": tokens,
        "context_dim": dim,
        "hidden": task.config.model.hidden,
        "embedding_dim": task.embedding_dim,
        "time_dim": 4 * task.unet[1]["widths"][0] if task.config.model.time_condition else 0,
        "unconditional": task.guided,
    }


# -------------------------------------------------------------------------------------------------------------- parity
def parity(dreamer: from_trials.TrialGenerator) -> dict[str, np.ndarray]:
    """`eeg` in µV, `latents` to start from, and what dreamjax makes of them in float32, in PyTorch's layout.

    `context`, `time_offset`, `embedding`; `noise`, the U-Net's prediction at `timesteps`; `image`, after `steps` of
    the model's sampler under `guidance`.
    """
    task, model = _system(dreamer), dreamer.model
    stored = torch_export.noise_like_eeg(task.encoder, WINDOWS)
    scale, T = stored.get("scale", np.ones(WINDOWS, np.float32)), task.encoder.data.samples
    signal, _, _ = torch_export.in_units(task.encoder.data, stored["input"], scale, np.ones((WINDOWS, T), bool))
    given = {"signal": signal.astype(np.float32), "valid": np.ones((WINDOWS, T), np.float32)}
    size = (min(model.sample_size[0], SIDE), min(model.sample_size[1], SIDE))
    start = np.random.default_rng(1).standard_normal((WINDOWS, *size, model.latent_channels)).astype(np.float32)
    timesteps = np.array([1, model.schedule.num_train_timesteps - 1], np.int64)
    guidance = GUIDANCE if task.guided else 1.0

    def forward(params: Any, x: jax.Array, t: jax.Array, context: jax.Array, offset: Any) -> jax.Array:
        return model.unet.bound(params)(x, t, context, time_offset_BxE=offset)

    with jax.default_matmul_precision("highest"):
        found = dreamer.conditions(given)
        noise = jax.jit(forward)(model.unet.params, start, timesteps, found["context"], found.get("time_offset"))
        made, _ = model.generate(
            sampling.plan(None, model.schedule, STEPS),
            _as_many_as_devices(
                {"noise": start, **{name: found[name] for name in found if name != "embedding"}}, model
            ),
            seed=0,
            size=size,
            unconditional=dreamer.unconditional() if task.guided else None,
            scale=guidance,
        )
    stored = {"eeg": stored.pop("input"), **stored, **found, "latents": start.transpose(0, 3, 1, 2)}
    stored |= {"noise": np.asarray(noise).transpose(0, 3, 1, 2), "timesteps": timesteps}
    stored |= {"image": np.asarray(made)[:WINDOWS].transpose(0, 3, 1, 2)}
    stored |= {"steps": np.array(STEPS), "guidance": np.array(guidance, np.float32)}
    return {name: np.ascontiguousarray(array) for name, array in stored.items()}


def _as_many_as_devices(rows: dict[str, np.ndarray], model: LatentDiffusion) -> dict[str, np.ndarray]:
    """`rows` and their index, repeated until every device has as many."""
    devices = model.mesh.shape["data"] * model.mesh.shape["fsdp"]
    own = np.arange(-(-WINDOWS // devices) * devices) % WINDOWS
    return {"index": own.astype(np.uint32), **{name: array[own] for name, array in rows.items()}}


# ---------------------------------------------------------------------------------------------------------- model card
def _facts(run: Run) -> dict[str, Any]:
    """What the folder says of its origin: no names, no dates, no paths. "channels" goes to the encoder's config."""
    task: DreamDiffusion = run.task  # type: ignore[assignment]
    config, data, imported = task.config, task.encoder.data, training_data.read(run.workdir)
    origin = imported.get("origin")
    return {
        "version": dreamjax.__version__,
        "step": run.step if not origin else None,
        "examples": run.examples,
        "averaged": run.averaged,
        "origin": origin,
        "notes": imported.get("notes", []),
        "corpora": imported.get("corpora") if imported else training_data.corpora_of(data, run.workdir),
        "preprocessing": [] if imported else training_data.steps_of(data, run.workdir),
        "images": epath.Path(config.target.folder).name,
        "held_out": {"val": config.target.val_share, "test": config.target.test_share, "people": config.target.people},
        "data": {name: getattr(data, name) for name in ("montage", "mapping", "stretch")},
        "loss": dataclasses.asdict(config.loss),
        "trained": config.model.trainable,
        "base": "" if origin else epath.Path(config.model.path).name,
        "evaluation": _evaluation(run),
        "parity_tolerance": TOLERANCE,
        "channels": training_data.channels_of(data, task.encoder.model.channels),
    }


def _evaluation(run: Run) -> dict[str, Any] | None:
    """What `dreamjax evaluate` found of this very step, without the run's place."""
    found = image_report.saved(run.workdir, run.step)
    return found and {name: value for name, value in found.items() if name not in ("run", "title")}


def _card(dreamer: from_trials.TrialGenerator, facts: dict[str, Any], folder: epath.Path) -> str:
    """README.md: what a user needs to know, and what it must not be used for."""
    task = _system(dreamer)
    config = sniffing.read_json(folder / "eeg_encoder" / "config.json")
    files = ("eeg_encoder", "unet")
    return templates.render(
        "reports/templates/dreamdiffusion_card.md.j2",
        **facts,
        counted=torch_export.counted_in_words,
        config=config,
        scaling=torch_export.scaling_in_words(task.encoder),
        guided=task.guided,
        sampler=dreamer.model.schedule.sampler,
        size=[side * dreamer.model.factor for side in dreamer.model.sample_size],
        tables=image_report.tables(facts["evaluation"]) if facts["evaluation"] else [],
        tolerance=TOLERANCE,
        hashes={
            f"{part}/{entry.name}": manifest.file_hash(entry)
            for part in files
            for entry in sorted((folder / part).iterdir(), key=str)
            if entry.suffix == ".safetensors"
        },
    )
