"""Opened models, which `import dreamjax` re-exports: what a trained system can do with signals and prompts.

model = dreamjax.load("runs/tiny")
features = model.encode(signal, sfreq=250, ch_names=["Fp1", "Fp2", ...])     # µV, (channels, time)
features.tokens, features.pooled                                             # (windows, tokens, D), (windows, D)
features = model.encode(windows, prepared=True)  # µV, (windows, channels, samples): as `export`'s module takes them
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import jax
import numpy as np
from etils import epath

from dreamjax import api
from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.signals.datasets import augment, pipeline
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.datasets.records import Window
from dreamjax.storage import presence
from dreamjax.systems import opening
from dreamjax.systems.base import (
    Embedding,
    Embeds,
    GeneratesFromText,
    GeneratesFromTrials,
    Reconstructs,
    Run,
    capability,
)

if TYPE_CHECKING:
    import mne
    from PIL.Image import Image

    from dreamjax.evaluation.drivers import Result
    from dreamjax.export.driver import ExportSummary
    from dreamjax.runs.latent_diffusion import LatentDiffusion
    from dreamjax.signals.recordings.readers.recording import Recording

Signal = Union[np.ndarray, "mne.io.BaseRaw", "mne.BaseEpochs", str, Path]
EXPORTED = "model.safetensors"  # in a folder that `export` wrote


def load(path: epath.PathLike, *, step: int | None = None, best: bool = False) -> "Model":
    """Open a trained system.

    Args:
        path: the work directory of `train` or of `import_checkpoint`; a folder that `export` wrote; or its hub id.
        step: a saved step of a run (default: the newest intact one).
        best: the saved step with the best held-out score.

    Raises:
        UserError: `path` is neither a run nor an export, or the step is missing or damaged.
    """
    from dreamjax.weights import hub

    folder = epath.Path(path)
    if presence.is_folder(folder / "checkpoints"):
        return Model(opening.open_run(path, step, best), best)
    if presence.exists(folder) and not presence.exists(folder / EXPORTED):
        raise UserError(f"{path}: neither a run (checkpoints/) nor an exported model ({EXPORTED})")
    if step is not None or best:
        raise UserError(f"{path}: step and best choose among the checkpoints of a run, and this is an exported model")
    temporary = tempfile.TemporaryDirectory(prefix="dreamjax-")
    run = Path(temporary.name) / "run"
    api.import_checkpoint(folder if presence.exists(folder) else hub.resolve(str(path)), run)
    return Model(opening.open_run(run), temporary=temporary)


def load_pipeline(folder: epath.PathLike, *, dtype: str = "float32", attention: str = "auto") -> "Pipeline":
    """Open Stable Diffusion, or the run of a system that generates images from text, on all devices.

    Args:
        folder: a diffusers pipeline's folder or hub id, or a work directory.
        dtype: of the computation, "float32" or "bfloat16".
        attention: see `models.attention`.
    """
    from dreamjax.generation import from_prompts

    return Pipeline(from_prompts.open_model(folder, dtype, attention))


@dataclass(frozen=True)
class Pipeline:
    """Prompts → images; opened by `load_pipeline`."""

    model: "LatentDiffusion"

    def __call__(
        self, prompt: str | Sequence[str], *, steps: int = 30, guidance: float = 7.5, seed: int = 0, **options: Any
    ) -> "list[Image]":
        """Return one image for each prompt.

        Args:
            prompt: one text or several.
            steps: of the sampler.
            guidance: weight of classifier-free guidance; 1: none.
            seed: image i has the noise of (seed, i), whatever the batch.
            options: further fields of `generation.from_prompts.TextRequest` (negative, sampler, height, width, …).
        """
        from PIL import Image

        from dreamjax.generation import from_prompts

        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        request = from_prompts.TextRequest(prompts=prompts, steps=steps, guidance=guidance, seed=seed, **options)
        return [Image.fromarray(image) for image in from_prompts.images(self.model, request)]


@dataclass(frozen=True)
class SignalFacts:
    """What a caller says about a signal; see `Model.encode`."""

    sfreq: float | None = None
    ch_names: Sequence[str] | None = None
    split: str = "test"
    prepared: bool = False
    scale: float | Sequence[float] | np.ndarray | None = None
    valid: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.prepared and (self.scale is not None or self.valid is not None):
            raise UserError("scale and valid describe windows that are prepared; set prepared=True, or leave them out")


@dataclass(frozen=True)
class Model:
    """A trained system, opened by `load`. What it can do depends on the system; other calls raise UserError."""

    run: Run
    best: bool = False  # its step was chosen by the held-out score
    temporary: tempfile.TemporaryDirectory | None = field(default=None, repr=False)  # the run made of an export

    @property
    def config(self) -> Any:
        """Return the frozen dataclass of the system's config."""
        return self.run.config

    def encode(
        self,
        x: Signal,
        *,
        sfreq: float | None = None,
        ch_names: Sequence[str] | None = None,
        split: str = "test",
        prepared: bool = False,
        scale: float | Sequence[float] | np.ndarray | None = None,
        valid: np.ndarray | None = None,
    ) -> Embedding:
        """Return tokens and pooled features of a signal in µV, cut into windows and filtered as in the run's training.

        The signal is scaled here, as the system's data were. With `prepared` nothing else is done: windows in µV have
        the same features as in the module that `export` writes.

        Args:
            x: µV as an array (channels, time) of one recording or (trials, channels, time); `mne.io.Raw` or
                `mne.Epochs`; or the folder of prepared shards, whose windows of `split` are encoded.
            sfreq: Hz, of an array.
            ch_names: of an array's channels; 10-20 names where the model maps channels to a montage.
            split: of prepared shards.
            prepared: `x` is an array of windows (windows, channels, samples), filtered, at the model's rate and in the
                order of its channels.
            scale: in µV, for prepared windows of a model with scaling "robust": that of their recording, one number or
                one for each window. None: each window has its own.
            valid: (windows, samples), 0 where a prepared window is padded. None: no padding.

        Returns:
            tokens (windows, tokens, D) and pooled (windows, D), float32.

        Raises:
            UserError: the system has no encoder, or nothing of the signal can be used.
        """
        system = capability(self.run.task, Embeds, "encode signals")
        batches = self._batches(system.signal, x, SignalFacts(sfreq, ch_names, split, prepared, scale, valid))
        parts = [jax.tree.map(np.asarray, self._embed(self.run.params, b["signal"], b["valid"])) for b in batches]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def reconstruct(
        self,
        x: Signal,
        hidden: np.ndarray,
        *,
        sfreq: float | None = None,
        ch_names: Sequence[str] | None = None,
        split: str = "test",
        prepared: bool = False,
        scale: float | Sequence[float] | np.ndarray | None = None,
        valid: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the model's prediction of windows from their visible patches; other arguments as in `encode`.

        Args:
            hidden: bool (patches,) for all windows, or (windows, patches); True: not shown to the model.

        Returns:
            (windows, channels of the model, samples) in µV, at every patch.
        """
        system = capability(self.run.task, Reconstructs, "reconstruct signals")
        parts: list[np.ndarray] = []
        for batch in self._batches(system.signal, x, SignalFacts(sfreq, ch_names, split, prepared, scale, valid)):
            first, count = sum(map(len, parts)), len(batch["signal"])
            rows = np.broadcast_to(hidden, (count, len(hidden))) if hidden.ndim == 1 else hidden[first : first + count]
            guess = np.asarray(self._reconstruct(self.run.params, batch["signal"], rows, batch["valid"]))
            parts.append(guess * batch["gain"][:, :, None] + batch["offset"][:, :, None])
        return np.concatenate(parts)

    def generate(self, x: "Signal | None" = None, *, prompt: str | Sequence[str] = (), **options: Any) -> "list[Image]":
        """Return images: of a signal, one for each of its windows, or of prompts, as the system can.

        Args:
            x: as in `encode`, with its other arguments, for a system that generates from brain signals.
            prompt: for a system that generates from text.
            options: of the sampler: `steps`, `guidance`, `seed`, `sampler`, …; see `generation.batches.Sampling`.
        """
        if x is None:
            task = capability(self.run.task, GeneratesFromText, "generate images from text")
            mesh = meshes.make(MeshConfig())
            return Pipeline(task.pipeline(self.run, mesh, dtype="float32", attention="auto"))(prompt, **options)
        from PIL import Image

        from dreamjax.generation.batches import Sampling

        system = capability(self.run.task, GeneratesFromTrials, "generate images from signals")
        names = [one.name for one in dataclasses.fields(SignalFacts) if one.name in options]
        facts = SignalFacts(**{name: options.pop(name) for name in names})
        batches = list(self._batches(system.signal, x, facts))
        rows = {name: np.concatenate([batch[name] for batch in batches]) for name in ("signal", "valid")}
        return [Image.fromarray(image) for image in self._generator.images_of(rows, Sampling(**options))]

    def evaluate(self, measure: str | None = None, **options: Any) -> "Result":
        """Score the loaded step; see `api.evaluate`. A probe trains its encoders itself."""
        return api.evaluate(self.run.workdir, measure, **({} if measure == "probe" else self._step(options)), **options)

    def export(self, out: epath.PathLike, **options: Any) -> "ExportSummary":
        """Write the loaded step as a folder for PyTorch; see `api.export`."""
        return api.export(self.run.workdir, out, **self._step(options), **options)

    def _step(self, options: Mapping[str, object]) -> dict[str, Any]:
        """Return the option that names the loaded step, where `options` names none."""
        if {"step", "best"} & options.keys():
            return {}
        return {"best": True} if self.best else {"step": self.run.step}

    @functools.cached_property
    def _embed(self) -> Callable[..., Embedding]:
        return jax.jit(capability(self.run.task, Embeds, "encode signals").embed)

    @functools.cached_property
    def _reconstruct(self) -> Callable[..., jax.Array]:
        return jax.jit(capability(self.run.task, Reconstructs, "reconstruct signals").reconstruct)

    @functools.cached_property
    def _generator(self) -> Any:
        from dreamjax.generation.from_trials import TrialGenerator

        return TrialGenerator.open(self.run)

    def _batches(self, data: DataConfig, x: Signal, facts: SignalFacts) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield the model's input for every window of `x`."""
        if facts.prepared:
            yield from self._prepared(data, x, facts)
        elif isinstance(x, str | Path):
            if facts.sfreq is not None or facts.ch_names is not None:
                raise UserError("sfreq and ch_names describe an array; prepared shards have their own")
            data = dataclasses.replace(data, path=(str(x),), weights=())
            stream = pipeline.open_stream(data, facts.split, seed=self.config.seed, training=False)
            for batch in stream.batches(batch_size=pipeline.AT_ONCE):
                real = int((batch["weight"] > 0).sum())
                yield {name: values[:real] for name, values in batch.items()}
        else:
            recording = _recording(x, facts.sfreq, facts.ch_names)
            yield from pipeline.assembled(data, self._windows(data, recording))

    def _prepared(self, data: DataConfig, x: Any, facts: SignalFacts) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield prepared windows in µV, scaled as the exported module scales them."""
        windows, shape = np.asarray(x), self.run.task.example()["signal"].shape
        if windows.ndim != 3 or windows.shape[1:] != shape or windows.dtype.kind not in "fiu":
            raise UserError(
                f"prepared windows are numbers of the shape (windows, {shape[0]} channels, {shape[1]} samples), not "
                f"{windows.dtype} of {windows.shape}; for a recording leave prepared out"
            )
        if facts.sfreq is not None and not np.isclose(facts.sfreq, data.sfreq):
            raise UserError(f"sfreq is {facts.sfreq:g}, but prepared windows are at {data.sfreq:g} Hz; resample them")
        names = pipeline.target_channels(data, lambda: []).names if data.montage != "own" else ()
        if facts.ch_names is not None and names and tuple(facts.ch_names) != names:
            raise UserError(f"the channels of prepared windows are {', '.join(names)}, in this order; ch_names differs")
        if facts.scale is not None and data.scaling != "robust":
            raise UserError(f"this model scales its input by {data.scaling}, so it takes no scale; leave it out")
        for first in range(0, len(windows), pipeline.AT_ONCE):
            rows = slice(first, first + pipeline.AT_ONCE)
            microvolts = windows[rows].astype(np.float32)
            if not np.isfinite(microvolts).all():
                raise UserError("the windows hold values that are not finite; leave those windows out")
            valid = np.ones((len(windows), shape[1]), bool) if facts.valid is None else np.asarray(facts.valid) > 0
            scale = _scale(microvolts) if facts.scale is None else np.broadcast_to(facts.scale, len(windows))[rows]
            how = (data.scaling, data.divide, data.clip)
            signal, gain, offset = augment.in_units(microvolts, scale, valid[rows], *how)
            yield {"signal": signal, "valid": valid[rows].astype(np.float32), "gain": gain, "offset": offset}

    def _windows(self, data: DataConfig, recording: "Recording") -> list[Window]:
        """Return the windows of a recording, prepared with the settings of the run's data. Raise UserError for none."""
        from dreamjax.generation.recording_windows import settings_of
        from dreamjax.signals.preparation.window_settings import EventWindows
        from dreamjax.signals.preparation.windows import RecordingWindows
        from dreamjax.signals.recordings.identity import Identity

        settings = settings_of(data, self.run.workdir)
        settings = dataclasses.replace(settings, events=EventWindows())
        cut = RecordingWindows(recording, settings, Identity("", "", ""))
        kept = list(cut)
        if not kept:
            reasons = sorted({reject.reason for reject in cut.rejects})
            raise UserError(f"no window of the signal can be used: {', '.join(reasons) or 'it is too short'}")
        return kept


def _scale(windows: np.ndarray) -> np.ndarray:
    """Return the robust scale of each window, µV."""
    from dreamjax.signals.preparation.recording_plan import robust_scale

    return np.array([robust_scale(window) for window in windows], np.float32)


def _recording(x: Any, sfreq: float | None, ch_names: Sequence[str] | None) -> "Recording":
    """Return an array or an object of MNE as a recording."""
    from dreamjax.signals.recordings.readers import mne_reader, numpy_array

    if hasattr(x, "get_data"):  # an object of MNE, which the caller has imported
        if sfreq is not None or ch_names is not None:
            raise UserError("sfreq and ch_names describe an array; an object of MNE has its own")
        epochs = hasattr(x, "events") and hasattr(x, "event_id")
        return mne_reader.recording_from_epochs(x) if epochs else mne_reader.recording_from_raw(x)
    if sfreq is None or ch_names is None:
        raise UserError("an array needs sfreq (Hz) and ch_names")
    return numpy_array.recording_from_array(np.asarray(x), sfreq, ch_names)
