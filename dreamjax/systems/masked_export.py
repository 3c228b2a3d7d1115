"""What a folder of masked pretraining for PyTorch holds.

config.json            arguments of the model, and under "dreamjax" where it comes from
model.safetensors      the weights, under DreamDiffusion's names
modeling_dreamjax.py   the model: `pytorch/masked_autoencoder.py`, copied
parity.safetensors     an input and what dreamjax computes from it
README.md              the model card
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from dreamjax.runs import training_data
from dreamjax.signals.datasets import signal_scaling
from dreamjax.systems.base import Card, Component, Exported, Run
from dreamjax.training.task import PyTree
from dreamjax.typing import JsonDict
from dreamjax.weights import masked_autoencoder as names

if TYPE_CHECKING:
    from dreamjax.systems.masked_pretraining import MaskedPretraining, MaskedPretrainingConfig

PYTORCH = Path(__file__).parent / "pytorch"  # stand-alone files that users get
MODULE = "modeling_dreamjax"
CHECK = f'import {MODULE}\ndifferences = {MODULE}.check_parity(".")'
WINDOWS = 2  # of the parity arrays


def export(task: "MaskedPretraining", run: Run) -> Exported:
    """Return the folder that a PyTorch user loads in one line."""
    config = task.config
    channels = training_data.channels_of(config.data, run.workdir, config.model.channels)
    tensors = names.with_positions(names.TABLE.to_torch(run.params), config.patches)
    source = (PYTORCH / "masked_autoencoder.py").read_text(encoding="utf-8")
    return Exported(
        {"": Component(model_config(config, channels), tensors, {f"{MODULE}.py": source})},
        parity(task, run.params),
        CHECK,
        facts={
            "mask": dataclasses.asdict(config.mask),
            "data": {name: getattr(config.data, name) for name in ("montage", "mapping", "stretch", "mask_channels")},
            "loss": dataclasses.asdict(config.loss),
        },
        card=Card(
            template="reports/templates/model_card.md.j2",
            values={
                "model": config.model,
                "data": config.data,
                "samples": config.data.samples,
                "sfreq": config.data.sfreq,
                "tokens": config.patches,
                "scaling": scaling_in_words(config),
                "masking": _masking_in_words(config),
                "target": config.loss.target,
                "channels": channels,
            },
        ),
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


# -------------------------------------------------------------------------------------------------------------- parity
def parity(task: "MaskedPretraining", params: PyTree) -> dict[str, np.ndarray]:
    """Return `input` in µV, and the `tokens`, `pooled` and `reconstruction` (of the patches in `masked`) of it."""
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
    return arrays, *signal_scaling.in_units(arrays["input"], scale, valid, data.scaling, data.divide, data.clip)


# ---------------------------------------------------------------------------------------------------------- model card
def scaling_in_words(config: "MaskedPretrainingConfig") -> str:
    """Return what the exported model does to µV, as a clause whose subject it is."""
    data = config.data
    how = {
        "divide": f"divides by {data.divide:g} µV",
        "robust": "divides by the recording's robust scale (`scale=`; without it each window's own)",
        "zscore": "z-scores each channel of a window",
    }[data.scaling]
    return f"{how}, clips at ± {data.clip:g}" if data.clip else how


def _masking_in_words(config: "MaskedPretrainingConfig") -> str:
    mask = config.mask
    text = f"{', '.join(mask.kinds)}, share {', '.join(f'{ratio:g}' for ratio in mask.ratios)} of the patches"
    return f"{text}, {config.data.mask_channels:g} of the channels" if config.data.mask_channels else text
