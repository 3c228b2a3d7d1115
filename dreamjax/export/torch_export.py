"""A run → a folder that a PyTorch user loads in one line, without JAX.

config.json            arguments of the model, and under "dreamjax" where it comes from
model.safetensors      the weights, under DreamDiffusion's names
modeling_dreamjax.py   the model: `torch_model.py`, copied
parity.safetensors     an input and what dreamjax computes from it
README.md              the model card
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

import dreamjax
from dreamjax import config as configs
from dreamjax.errors import UserError, missing_package
from dreamjax.export import diffusers_export, licences, training_data
from dreamjax.export.comparison import Library
from dreamjax.reports import templates
from dreamjax.signals.datasets import signal_scaling
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.storage import atomic, manifest, paths
from dreamjax.systems import masked_pretraining, opening
from dreamjax.systems.masked_pretraining import MaskedPretrainingConfig
from dreamjax.weights import masked_autoencoder as names

TOLERANCE = 1e-5  # of the largest magnitude; float32
MODEL = Path(__file__).with_name("torch_model.py")
LIBRARY = Library("torch", "", 'import modeling_dreamjax\nfound = modeling_dreamjax.check_parity(".")')
CREATIVE_COMMONS = ("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0")
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", *CREATIVE_COMMONS)  # ids that the Hub knows


def export(
    workdir: epath.PathLike,
    out: epath.PathLike,
    *,
    step: int | None = None,
    best: bool = False,
    weights: Literal["ema", "params"] = "ema",
    licence: str | None = None,
) -> dict[str, Any]:
    """Write the folder `out` from the newest (or `step`, or the `best`) step of a run; returns what the command says.

    `weights`: the averaged ones where the run kept an average, or the parameters themselves. Where torch is installed,
    the folder is checked in a process that cannot import JAX before it gets its name.

    Raises UserError for a run that is missing or of another system, a folder that exists, and a permissive `licence`
    over restricted or unknown corpora.
    """
    out = paths.reachable(out)
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out or delete it")
    _need_safetensors()
    with LIBRARY.started(TOLERANCE) as compare:
        run = opening.open_run(workdir, step=step, best=best, averaged=weights == "ema")
        if not isinstance(run.config, MaskedPretrainingConfig):
            other = "; try --to diffusers" if run.config.system in diffusers_export.WRITERS else ""
            raise UserError(f"{workdir} is a run of {run.config.system}, which has no export to torch{other}")
        facts = _facts(run, training_data.read(workdir), licence)
        licences.check(licence, facts["corpora"])
        with atomic.new_folder(out, last="config.json") as folder:
            write(folder, run.config, run.params, facts)
            differences = compare(folder)
    return {
        "out": str(out),
        "step": run.step,
        "weights": "ema" if run.averaged else "params",
        "parameters": opening.parameter_count(run.params),
        "licence": licence,
        "tolerance": TOLERANCE,
        "differences": differences,
    }


def write(folder: epath.PathLike, config: MaskedPretrainingConfig, params: Any, facts: dict[str, Any]) -> None:
    """Every file of the export, in an existing folder. `facts`: see `_facts`."""
    from safetensors.numpy import save

    folder = epath.Path(folder)
    tensors = names.with_positions(names.TABLE.to_torch(params), config.patches)
    (folder / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    (folder / "parity.safetensors").write_bytes(save(parity(config, params), {"format": "pt"}))
    (folder / "modeling_dreamjax.py").write_text(MODEL.read_text(encoding="utf-8"))
    facts = facts | {"sha256": manifest.file_hash(folder / "model.safetensors"), "parity_tolerance": TOLERANCE}
    described = model_config(config, facts.pop("channels"))
    chs_info = described["chs_info"]
    (folder / "config.json").write_text(json.dumps(described | {"dreamjax": facts}, indent=1))
    (folder / "README.md").write_text(card(config, facts, chs_info))


def model_config(config: MaskedPretrainingConfig, chs_info: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The arguments of `torch_model.MaskedAutoencoder`, in braindecode's names."""
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


def _facts(run: opening.Run, imported: dict[str, Any], licence: str | None) -> dict[str, Any]:
    """What the folder says about its origin; "channels" goes to `chs_info`."""
    config = run.config
    return {
        "version": dreamjax.__version__,
        "step": run.step if not imported.get("origin") or run.step > 1 else None,  # 1: the source names none
        "examples": run.examples,
        "averaged": run.averaged,
        "parameters": opening.parameter_count(run.params),
        "config_sha256": hashlib.sha256(configs.to_json(config).encode()).hexdigest(),
        "licence": licence,
        "corpora": imported.get("corpora") if imported else training_data.corpora_of(config.data, run.workdir),
        "preprocessing": imported.get("preprocessing", [])
        if imported
        else training_data.steps_of(config.data, run.workdir),
        "reference": imported.get("reference") or _reference(run),
        "mask": dataclasses.asdict(config.mask),
        "data": {name: getattr(config.data, name) for name in ("montage", "mapping", "stretch", "mask_channels")},
        "loss": dataclasses.asdict(config.loss),
        "origin": imported.get("origin"),
        "channels": imported.get("channels") or training_data.channels_of(config.data, config.model.channels),
    }


def _reference(run: opening.Run) -> str:
    """The reference that the windows had, in words."""
    found: dict[str, int] = {}
    for entry in training_data.steps_of(run.config.data, run.workdir):
        for name, count in entry["references"].items():
            found[str(json.loads(name))] = found.get(str(json.loads(name)), 0) + count
    return ", ".join(f"{name} ({count} recordings)" for name, count in sorted(found.items())) or "unknown"


# -------------------------------------------------------------------------------------------------------------- parity
def parity(config: MaskedPretrainingConfig, params: Any, windows: int = 2) -> dict[str, np.ndarray]:
    """`input` in µV, and the `tokens`, `pooled` and `reconstruction` (of the patches in `masked`) computed from it.

    The input is noise with the spectrum and amplitude of EEG, and nobody's.
    """
    exact = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32", attention="xla"))
    stored = noise_like_eeg(config, windows)
    microvolts, T, rng = stored["input"], config.data.samples, np.random.default_rng(1)
    scale = stored.get("scale", np.ones(windows, np.float32))
    signal, gain, offset = in_units(config.data, microvolts, scale, np.ones((windows, T), bool))
    with jax.default_matmul_precision("highest"), jax.enable_x64(True):  # for what solves equations, see `models`
        tokens = jax.jit(lambda p, x: masked_pretraining.features(exact, p, x))(params, signal)
        stored |= {"tokens": np.asarray(tokens), "pooled": np.asarray(masked_pretraining.pooled(tokens))}
        if config.model.decoder_depth and config.loss.target == "raw":
            masked = rng.random((windows, config.patches)) < 0.75
            filled = jax.jit(lambda p, x, hidden: masked_pretraining.reconstruct(exact, p, x, hidden))
            units = np.asarray(filled(params, signal, masked))
            stored |= {"masked": masked, "reconstruction": units * gain[:, :, None] + offset[:, :, None]}
    return {name: np.ascontiguousarray(array) for name, array in stored.items()}


def noise_like_eeg(config: MaskedPretrainingConfig, windows: int) -> dict[str, np.ndarray]:
    """`input` [windows, C, T] in µV, noise with the spectrum and amplitude of EEG; for scaling "robust" its `scale`."""
    rng = np.random.default_rng(0)
    C, T = config.model.channels, config.data.samples
    hertz = np.fft.rfftfreq(T, 1 / config.data.sfreq)
    shape = np.exp(-((hertz / 60) ** 2)) / np.maximum(hertz, 1)  # 1/f, as filtered EEG has it
    microvolts = np.fft.irfft(np.fft.rfft(rng.standard_normal((windows, C, T))) * shape, T)
    found = {"input": (20 * microvolts / microvolts.std()).astype(np.float32)}
    if config.data.scaling == "robust":
        found["scale"] = np.linspace(10, 20, windows).astype(np.float32)
    return found


def in_units(
    data: DataConfig, microvolts: np.ndarray, recording_scale: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(signal as the network sees it, gain, offset), as the pipeline scales it: µV = signal · gain + offset."""
    gain = np.repeat(
        signal_scaling.recording_gain(recording_scale, data.scaling, data.divide)[:, None], microvolts.shape[1], 1
    )
    offset = np.zeros_like(gain)
    if data.scaling == "zscore":
        gain, offset = signal_scaling.window_statistics(microvolts, valid)
    signal = (microvolts - offset[:, :, None]) / gain[:, :, None]
    return (np.clip(signal, -data.clip, data.clip) if data.clip else signal), gain, offset


def _need_safetensors() -> None:
    try:
        import safetensors.numpy  # noqa: F401
    except ImportError as problem:
        raise missing_package("safetensors", "torch", "an export to torch") from problem


# ---------------------------------------------------------------------------------------------------------- model card
def card(config: MaskedPretrainingConfig, facts: dict[str, Any], channels: list[dict[str, Any]] | None) -> str:
    """README.md: what a user needs to know, and the front matter that the Hub reads."""
    licence = facts["licence"]
    known = licence is not None and licence.lower() in HUB_LICENCES
    return templates.render(
        "reports/templates/model_card.md.j2",
        **{name: facts[name] for name in ("version", "step", "averaged", "origin", "corpora", "reference", "sha256")},
        counted=counted_in_words,
        hub_licence=licence.lower() if licence and known else "other" if licence else "unknown",
        licence=licence,
        config_sha256=facts["config_sha256"],
        steps=facts["preprocessing"],
        parameters=f"{facts['parameters']:,}",
        model=config.model,
        data=config.data,
        samples=config.data.samples,
        sfreq=config.data.sfreq,
        tokens=config.patches,
        tolerance=TOLERANCE,
        scaling=scaling_in_words(config),
        masking=_masking_in_words(config),
        target=config.loss.target,
        channels=channels,
    )


def counted_in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{json.loads(name)} × {count}" for name, count in counts.items()) or "unknown"


def scaling_in_words(config: MaskedPretrainingConfig) -> str:
    data = config.data
    how = {
        "divide": f"divides by {data.divide:g} µV",
        "robust": "divides by the recording's robust scale (`scale=`; without it each window's own)",
        "zscore": "z-scores each channel of a window",
    }[data.scaling]
    return f"{how}, clips at ± {data.clip:g}" if data.clip else how


def _masking_in_words(config: MaskedPretrainingConfig) -> str:
    mask = config.mask
    said = f"{', '.join(mask.kinds)}, share {', '.join(f'{ratio:g}' for ratio in mask.ratios)} of the patches"
    return f"{said}, {config.data.mask_channels:g} of the channels" if config.data.mask_channels else said
