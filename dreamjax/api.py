"""The verbs as functions, which the command line calls; `import dreamjax` re-exports all but `export`.

dreamjax.prepare("study/", "runs/study")
dreamjax.train("configs/pretrain/tiny.py", "runs/tiny")
print(dreamjax.evaluate("runs/tiny").text())
dreamjax.load("runs/tiny").export("exported/tiny")

Every function raises UserError, one sentence, for a mistake, and then leaves nothing half-written. Rooms are imported
when they are needed: preparing recordings does not import JAX.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamjax.errors import UserError
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    import jax
    from etils import epath

    from dreamjax.comparison.result import Comparison
    from dreamjax.evaluation.drivers import Result
    from dreamjax.export.driver import ExportSummary
    from dreamjax.export.import_checkpoint import ImportSummary
    from dreamjax.generation.folder import TrialSummary
    from dreamjax.generation.from_prompts import TextRequest, TextSummary
    from dreamjax.generation.from_trials import TrialRequest
    from dreamjax.generation.recording_windows import EventTimes
    from dreamjax.signals.preparation.convert_trials import TrialSettings
    from dreamjax.signals.preparation.inputs import PrepareOptions
    from dreamjax.signals.preparation.prepare import PreparedDataset
    from dreamjax.signals.preparation.window_settings import WindowSettings


def prepare(
    paths: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: "WindowSettings | TrialSettings | None" = None,
    options: "PrepareOptions | None" = None,
) -> "PreparedDataset":
    """Turn recordings into shards: filtered, referenced, resampled windows with splits by person.

    Args:
        paths: recordings, folders or BIDS roots; or published trials (EEG-ImageNet, THINGS-EEG2, responses).
        out: the dataset folder to write.
        settings: band in Hz, rate in Hz, samples of a window, events; of published trials `TrialSettings`.
        options: splits, pseudonyms, workers.

    Returns:
        The counts and files of the dataset; `as_json()` is what `dreamjax prepare --json` prints.
    """
    from dreamjax.signals.preparation import prepare as preparation
    from dreamjax.signals.preparation.inputs import PrepareOptions

    sources = [paths] if isinstance(paths, str | Path) else list(paths)
    return preparation.prepare(sources, out, settings, options or PrepareOptions())


def train(config: Any, workdir: "epath.PathLike", devices: "Sequence[jax.Device] | None" = None) -> JsonDict:
    """Train the system that a config describes, continuing from the state of its work directory.

    Args:
        config: a frozen dataclass of a system, a ConfigDict, or the path of a config file.
        workdir: folder of the run; continued if it exists.
        devices: of the mesh (default: all).

    Returns:
        The result of `dreamjax train --json`: `training.loop.TrainSummary`.
    """
    from dreamjax.systems import opening

    return opening.train(read_config(config), workdir, devices)


def read_config(config: Any, overrides: Sequence[tuple[str, str]] = ()) -> Any:
    """Return the frozen dataclass of a config file's path or a ConfigDict; a dataclass as it is.

    `overrides`: of a file, (dotted key, text), as on the command line.
    """
    from ml_collections import ConfigDict

    from dreamjax import config as configs
    from dreamjax.systems import registry

    if isinstance(config, str | Path):
        return configs.load(str(config), overrides, registry.schema_of)
    if isinstance(config, ConfigDict):
        return configs.to_dataclass(registry.schema_of(config), config)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise UserError(
            f"the config is a {type(config).__name__}; give a config file's path, a ConfigDict or a system's dataclass"
        )
    return config


def evaluate(workdir: "epath.PathLike", measure: str | None = None, **options: Any) -> "Result":
    """Score a run on held-out data, with controls and intervals.

    Args:
        workdir: of the run.
        measure: "images", "reconstruction", "retrieval", "prediction" or "probe" (default: the first that suits).
        options: of the measure: `split`, `step`, `best`, `data`, `seed`, `out` and more, the fields of its settings in
            `evaluation`.
    """
    from dreamjax.evaluation import drivers
    from dreamjax.training import compile_cache

    compile_cache.use("auto")
    given = options.get("data") or options.get("probe_data")
    _check_folders(workdir, "target.folder", *(() if given else ("data.path", "data.folder")), instead="--data SHARDS")
    return drivers.evaluate(str(workdir), measure, **options)


def compare(
    systems: Sequence[str],
    data: str | Sequence[str],
    target: str,
    workdir: "epath.PathLike",
    *,
    images: str = "",
    layer: int | None = None,
    pooling: str | None = None,
    corpus: str = "",
    path: str = "",
    stimuli: str = "",
    protocol: str = "honest",
    people: str | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    settings: Sequence[tuple[str, str]] = (),
    distractors: str = "",
    transductive: bool = False,
    over_time: Sequence[str] = (),
    windows: str = "both",
) -> "Comparison":
    """Train and score retrieval systems on the same trials, under one protocol, in one table.

    Args:
        systems: names, or NAME:PRESET.
        data: dataset folders of trials whose images are known.
        target: what images are compared by: a vision model's folder or hub id, a file of vectors with names, or a
            low-level feature (`targets.low_level`).
        workdir: folder of the comparison; what is done in it is not done again.
        images: folder of the images that were seen, for a vision model.
        corpus, path, stimuli: in place of `data`: a corpus of trials as it was downloaded, its name, and its folder of
            images; it is prepared in WORKDIR/data first, with the defaults of `prepare`.
        layer, pooling: of the vision model.
        protocol: honest, paper, neuralbench or single_trial.
        people: in_subject, joint or leave_one_out; None: the protocol's.
        seeds: runs of each system, trained as one program.
        epochs: passes over the training trials; None: each system's.
        settings: (key, value) of single settings, such as ("data.tmin", "0") or ("nice.optim.learning_rate", "1e-3").
        distractors: also score in a gallery with the images of this split of the dataset, or of this folder.
        transductive: also score by CSLS and by whitening, which know all test trials of a person.
        over_time: systems whose accuracy in sliding and in growing windows of the response is computed too: ridge, and
            those of `systems` whose network takes windows of 100 ms.
        windows: of `over_time`: both, sliding or growing.

    Returns:
        The table, with intervals, controls and paired differences.
    """
    from dreamjax.comparison import compare as comparison
    from dreamjax.comparison import protocols
    from dreamjax.comparison.jobs import Request, Scoring
    from dreamjax.targets.banks import BankConfig
    from dreamjax.targets.responses import ResponseConfig

    chosen = protocols.find(protocol)
    paths = (data,) if isinstance(data, str) else tuple(data)
    if bool(paths) == bool(path):
        raise UserError("compare takes prepared trials (--data) or a corpus (--path), one of the two")
    if path:
        paths = (comparison.prepare(path, corpus, stimuli, workdir),)
    elif corpus or stimuli:
        raise UserError("--corpus and --stimuli describe --path; leave them out, or give --path in place of --data")
    try:
        trials, bank = ResponseConfig(path=paths), BankConfig(path=target, layer=layer, images=images)
        bank = bank if pooling is None else dataclasses.replace(bank, pooling=pooling)  # type: ignore[arg-type]
    except ValueError as problem:
        raise UserError(f"compare: {problem}") from problem
    request = Request(
        tuple(systems),
        trials,
        bank,
        chosen,
        people or chosen.people,  # type: ignore[arg-type]
        seeds,
        epochs,
        tuple((key, value) for key, value in settings),
        Scoring(transductive, distractors),
    )
    return comparison.compare(request, workdir, comparison.Timed(tuple(over_time), windows))  # type: ignore[arg-type]


def generate(
    source: "epath.PathLike",
    request: "TextRequest | TrialRequest",
    out: "epath.PathLike",
    *,
    times: "EventTimes | None" = None,
    dtype: str = "float32",
    attention: str = "auto",
    variant: str | None = None,
) -> "TextSummary | TrialSummary":
    """Write a folder of images that a model generates from prompts, or a run from brain signals.

    Args:
        source: a diffusers folder, its hub id, or the work directory of a run.
        request: the prompts or the trials, and the sampler.
        out: the folder to write; with trials, one that was interrupted is continued.
        times: s in the recordings of `request.input` (default: the windows of dataset folders).
        dtype: of the computation, "float32" or "bfloat16".
        attention: see `models.attention`.
        variant: of a diffusers folder's weights, such as "fp16".
    """
    from etils import epath

    from dreamjax.generation import folder, from_prompts
    from dreamjax.generation.from_trials import TrialRequest
    from dreamjax.storage import paths, presence
    from dreamjax.training import compile_cache

    compile_cache.use("auto")
    if isinstance(request, TrialRequest):
        _check_folders(source, *(() if request.input else ("data.path", "target.folder")), instead="--input PATH")
        return folder.generate(source, request, out, times=times, dtype=dtype, attention=attention)
    paths.refuse_existing(out)  # before gigabytes of weights are read
    if presence.is_folder(epath.Path(source) / "checkpoints"):
        _check_folders(source)
    return from_prompts.generate(from_prompts.open_model(source, dtype, attention, variant), request, out)


def export(workdir: "epath.PathLike", out: "epath.PathLike", **options: Any) -> "ExportSummary":
    """Write a run as a folder for PyTorch, or for diffusers and transformers, and compare the two.

    Args:
        workdir: of the run.
        out: the folder to write, which must not exist.
        options: `to` ("torch" or "diffusers"), `step`, `best`, `weights` ("ema" or "params"), `licence`; see
            `export.driver.export`.
    """
    from dreamjax.export import driver

    _check_folders(workdir)
    return driver.export(workdir, out, **options)


def import_checkpoint(source: "epath.PathLike", out: "epath.PathLike", **options: Any) -> "ImportSummary":
    """Turn another program's checkpoint, or an exported folder, into a run; nothing in the file is executed.

    Args:
        source: a .pth file, or a folder that `export` wrote or that has NICE's files.
        out: the work directory to write, which must not exist.
        options: `part`, `heads`, `decoder_heads`, `divide` (µV per unit), `sfreq` (Hz), `channels`;
            see `export.import_checkpoint`.
    """
    from dreamjax.export import import_checkpoint as importing

    return importing.import_checkpoint(source, out, **options)


def relocate(workdir: "epath.PathLike", paths: Mapping[str, str | Sequence[str]]) -> None:
    """Store in a run where its folders are now: `relocate("runs/tiny", {"data.path": "/new/shards"})`.

    Not needed where a run has moved together with its data, or stayed where it was.
    """
    from dreamjax.runs import location
    from dreamjax.systems import opening

    opening.config_of(workdir)  # there is a run
    location.relocate(workdir, paths)


def _check_folders(workdir: "epath.PathLike", *data: str, instead: str = "") -> None:
    """Raise UserError where the networks that a run names, or the folders of its config keys `data`, are not here."""
    from dreamjax.runs import location
    from dreamjax.systems import opening

    location.check(opening.config_of(workdir), workdir, (*data, *location.NETWORKS), instead)
