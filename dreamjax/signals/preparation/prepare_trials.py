"""EEG-ImageNet's published trials → a dataset folder, one record a trial, read one at a time.

    prepare("eeg_5_95_std.pth", "runs/trials", Settings(), Options(splits=Wanted(by="subject", hold_out=(4,))))

Two ways to read a trial. `ours`: from the image's onset on, resampled to the rate of all other recordings, each
channel without its mean, and the end marked as padding where a trial is shorter. `dreamdiffusion`: samples 20 to 460 as
they are, which its configs then stretch in time. The values have no unit and keep the one that they have.
"""

import hashlib
import json
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from dreamjax import __version__
from dreamjax.console import log, progress
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.records import Window
from dreamjax.signals.preparation import dataset_folder, filters, stimulus_files
from dreamjax.signals.recordings.corpora import eeg_imagenet, eeg_imagenet_splits
from dreamjax.signals.recordings.corpora.eeg_imagenet import EEG_IMAGENET, Trials
from dreamjax.signals.recordings.corpora.eeg_imagenet_splits import UNUSED, Assigned, Wanted
from dreamjax.signals.recordings.identity import SPLITS, pseudonym
from dreamjax.storage import atomic, manifest

SPAN = (20, 460)  # DreamDiffusion: the samples that it reads
STRETCHED = 512  # … and to how many it stretches them, when its configs read the records
SECONDS = 0.5  # of an image
SCALED_BY = 120  # trials of a person from which its robust scale comes, evenly spaced
THIN = 4  # every fourth sample of them


@dataclass(frozen=True)
class Settings:
    """What is made of a trial."""

    reading: Literal["ours", "dreamdiffusion"] = "ours"
    sfreq: float = 256.0  # Hz; ours alone, like the next two
    high: float | None = None  # Hz: low-pass edge; None for no more than resampling needs
    samples: int = 0  # of a record; 0 for the half second that an image lasts

    def __post_init__(self) -> None:
        if not 0 < self.sfreq <= eeg_imagenet.SFREQ:
            raise ValueError(f"sfreq is {self.sfreq:g}, but it must be above 0 and at most {eeg_imagenet.SFREQ:g} Hz")
        if self.samples < 0 or self.samples == 1:
            raise ValueError(f"samples is {self.samples}, but a window has at least 2")

    @property
    def rate(self) -> float:
        """Hz of the records."""
        return self.sfreq if self.reading == "ours" else eeg_imagenet.SFREQ

    @property
    def width(self) -> int:
        """Samples of a record."""
        return SPAN[1] - SPAN[0] if self.reading == "dreamdiffusion" else self.samples or round(SECONDS * self.sfreq)


@dataclass(frozen=True)
class Options:
    """Where the trials go."""

    splits: Wanted = field(default_factory=Wanted)
    stimuli: str = ""  # the ImageNet folder; "" leaves the images unchecked
    strict: bool = False  # refuse where an image is missing or damaged, in place of leaving its trials out
    name: str = ""
    salt: str | None = None
    licence: str = EEG_IMAGENET.licence
    overwrite: bool = False


class Reader:
    """Trials as they are stored: (signal, which samples are real)."""

    def __init__(self, trials: Trials, settings: Settings):
        self.trials, self.settings = trials, settings
        try:
            self.chain = filters.design(eeg_imagenet.SFREQ, settings.rate, None, settings.high)
        except ValueError as problem:
            raise UserError(str(problem)) from problem

    def __call__(self, trial: int) -> tuple[Float[np.ndarray, "channels time"], Bool[np.ndarray, "time"]]:
        x_CxT = self.trials.signal(trial).astype(np.float64)
        if self.settings.reading == "dreamdiffusion":
            return x_CxT[:, SPAN[0] : SPAN[1]], np.ones(SPAN[1] - SPAN[0], bool)
        n, width = x_CxT.shape[1], self.settings.width
        stop = min(self.chain.length(n), width)
        low, high = self.chain.needs(0, stop)
        extended = filters.extended(lambda a, b: x_CxT[:, a:b], n, low, high)
        y_CxT, _ = self.chain.run(extended, 0, stop)
        out = np.zeros((len(x_CxT), width))
        out[:, :stop] = y_CxT - y_CxT.mean(axis=1, keepdims=True)
        return out, np.arange(width) < stop


def prepare_trials(
    path: epath.PathLike, out: epath.PathLike, settings: Settings | None = None, options: Options | None = None
) -> dict[str, Any]:
    """Convert a published file of trials into the dataset folder `out`. Returns what the command reports.

    Raises UserError for files that are not what they should be, for splits that cannot be, for an `out` that holds
    something else, and where a split would be empty.
    """
    settings, options, started = settings or Settings(), options or Options(), time.monotonic()
    name = dataset_folder.dataset_name(out, options.name)
    final, local = dataset_folder.places_of(out)
    if options.overwrite:
        dataset_folder.refuse_to_replace(final, [str(path), *filter(None, (options.splits.file, options.stimuli))])
    trials = eeg_imagenet.open_trials(path)
    assigned = eeg_imagenet_splits.assign(trials, options.splits)
    made_of = {"trials": manifest.file_hash(path)}
    if options.splits.file:
        made_of["splits"] = manifest.file_hash(options.splits.file)
    key = _settings_hash(settings, options, made_of)
    if (existing := _existing(final, key, options.overwrite)) is not None:
        return existing
    rejects = _rejects(trials, assigned, options)
    for trial in rejects:
        assigned.split[trial] = UNUSED
    _refuse_empty(trials, assigned, rejects)
    reader = Reader(trials, settings)
    scale = _scales(reader, assigned)
    fresh = local.parent / f".{local.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    with atomic.new_folder(fresh) as building, progress("prepare", int((assigned.split != UNUSED).sum())) as bar:
        shards = {
            split: records.write_split(
                building, name, split, _windows(reader, assigned, split, scale, options, bar, rejects)
            )
            for split in SPLITS
        }
        _refuse_empty(trials, assigned, rejects)
        _write_rejects(Path(building) / "rejects.jsonl", rejects)
        extra = _describe(trials, assigned, settings, options, scale, rejects, made_of) | {"settings_hash": key}
        dataset = records.finish(building, name, shards, extra)
    dataset_folder.deliver(fresh, local, final)
    return _result(str(final), dataset, round(time.monotonic() - started, 2))


# ------------------------------------------------------------------------------------------------------------- before
def _settings_hash(settings: Settings, options: Options, made_of: dict[str, str]) -> str:
    said = [
        repr(settings),
        repr(replace(options.splits, file="")),
        bool(options.stimuli),
        options.strict,
        made_of,
        records.FORMAT,
    ]
    said += [hashlib.sha256((options.salt or "").encode()).hexdigest(), options.licence]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _existing(out: epath.Path, key: str, overwrite: bool) -> dict[str, Any] | None:
    if not out.exists() or overwrite or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / dataset_folder.DATASET).exists():
        raise UserError(f"{out} exists and is no dataset that `dreamjax prepare` wrote; choose another --out")
    dataset = records.load_dataset(out)
    if dataset.get("settings_hash") != key:
        raise UserError(f"{out} was prepared otherwise; choose another --out or pass --overwrite")
    return _result(str(out), dataset, 0.0) | {"already_prepared": True}


def _rejects(trials: Trials, assigned: Assigned, options: Options) -> dict[int, str]:
    """trial → why it is left out although a split has it."""
    used = np.flatnonzero(assigned.split != UNUSED)
    low, high = eeg_imagenet.LENGTHS
    odd = {int(i): f"not {low} to {high} samples long" for i in used if not low <= trials.length[i] <= high}
    if not options.stimuli:
        log.warning("the images are not looked at: name their folder with --stimuli to leave out damaged ones' trials")
        return odd
    names = sorted({trials.stimulus(int(i)) for i in used})
    bad = stimulus_files.unusable(options.stimuli, names)
    if bad:
        some = "; ".join(f"{name} {why}" for name, why in list(bad.items())[:3])
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        if options.strict:
            raise UserError(f"{options.stimuli}: {some}{more}; mend them, or leave out --strict to go without them")
        log.warning("%s: %s%s; their trials are left out", options.stimuli, some, more)
    seen = {int(i): trials.stimulus(int(i)) for i in used}
    return odd | {i: f"the image {name} {bad[name]}" for i, name in seen.items() if name in bad}


def _refuse_empty(trials: Trials, assigned: Assigned, rejects: dict[int, str]) -> None:
    if empty := [name for name in SPLITS if not (assigned.split == name).any()]:
        why = f"; {len(rejects)} were left out, such as one {next(iter(rejects.values()))}" if rejects else ""
        raise UserError(f"{trials.source}: no trial is in split {empty[0]}{why}; choose other people or shares")


def _scales(reader: Reader, assigned: Assigned) -> dict[int, float]:
    """Person → median over channels of 1.4826 · MAD, in the unit of the file: what `Window.scale` is."""
    found = {}
    for person in reader.trials.subjects:
        own = np.flatnonzero((reader.trials.subject == person) & (assigned.split != UNUSED))
        if len(own):
            chosen = own[np.unique(np.linspace(0, len(own) - 1, SCALED_BY).round().astype(int))]
            parts = [signal[:, valid][:, ::THIN] for signal, valid in map(reader, chosen.tolist())]
            thin_CxT = np.concatenate(parts, axis=1)
            centre = np.nanmedian(thin_CxT, axis=1, keepdims=True)
            found[person] = float(np.median(1.4826 * np.nanmedian(np.abs(thin_CxT - centre), axis=1)))
    return found


# ------------------------------------------------------------------------------------------------------------ records
def _windows(
    reader: Reader,
    assigned: Assigned,
    split: str,
    scale: dict[int, float],
    options: Options,
    bar: Any,
    rejects: dict[int, str],
) -> Iterator[Window]:
    """The trials of a split in the order of the file; one that is not finite joins `rejects`."""
    trials = reader.trials
    ch_names = channel_names(trials.channels)
    xyz = np.full((trials.channels, 3), np.nan, np.float32)
    for trial in np.flatnonzero(assigned.split == split).tolist():
        signal, valid = reader(trial)
        bar.advance(1)
        if not np.isfinite(signal).all():
            rejects[trial] = "samples are not finite"
            assigned.split[trial] = UNUSED
            continue
        person = int(trials.subject[trial])
        yield Window(
            signal=signal.astype(np.float32),
            ch_names=ch_names,
            xyz=xyz,
            sfreq=reader.settings.rate,
            reference=EEG_IMAGENET.reference or "unknown",
            montage_rank=trials.channels,
            dataset=EEG_IMAGENET.name,
            **identity(options.salt, person),  # type: ignore[arg-type]
            start=0.0,  # when in the recording a trial was is not published
            valid=valid,
            channel_ok=np.ones(trials.channels, bool),
            scale=scale[person],
            label=trials.labels[trials.label[trial]],
            stimulus=trials.stimulus(trial),
            licence=options.licence,
            flags=(records.APART, f"trial:{trial}", "no unit"),
        )


def channel_names(count: int) -> tuple[str, ...]:
    """The files do not name their channels; these names are no 10-05 ones, so nobody takes them for places."""
    return tuple(f"unnamed{i + 1:03d}" for i in range(count))


def identity(salt: str | None, person: int) -> dict[str, str]:
    """The pseudonyms of a person, as the file numbers them."""
    who = str(person)
    return {
        "subject": pseudonym(salt, EEG_IMAGENET.name, "subject", who),
        "session": pseudonym(salt, EEG_IMAGENET.name, "session", who, ""),
        "recording": pseudonym(salt, EEG_IMAGENET.name, "recording", who, ""),
    }


# ------------------------------------------------------------------------------------------------------------- beside
def _write_rejects(path: Path, rejects: dict[int, str]) -> None:
    lines = [json.dumps({"trial": trial, "whole": True, "reason": why}) for trial, why in sorted(rejects.items())]
    atomic.write_text(path, "".join(f"{line}\n" for line in lines))


def _describe(
    trials: Trials,
    assigned: Assigned,
    settings: Settings,
    options: Options,
    scale: dict[int, float],
    rejects: dict[int, str],
    made_of: dict[str, str],
) -> dict[str, Any]:
    """dataset.json but for the shards."""
    used = assigned.split != UNUSED
    raw = trials.means is not None
    inputs, hours = [], 0.0
    for person in trials.subjects:
        for split in SPLITS:
            own = (trials.subject == person) & (assigned.split == split)
            if own.any():
                who = identity(options.salt, person)
                inputs.append(_input(trials, own, split, who, settings, scale[person], made_of["trials"]))
                hours += inputs[-1]["hours"]
    reading: dict[str, Any] = {"reading": settings.reading, "lengths": list(eeg_imagenet.LENGTHS)}
    if settings.reading == "dreamdiffusion":
        rate = eeg_imagenet.SFREQ * (STRETCHED - 1) / (settings.width - 1)
        reading |= {"span": list(SPAN), "stretched_to": STRETCHED, "effective_sfreq": round(rate, 2)}
    people = {s: len(np.unique(trials.subject[assigned.split == s])) for s in SPLITS}
    return {
        "totals": {
            "recordings": len(scale),
            "trials_in_file": len(trials),
            "hours": round(hours, 4),
            "windows": int(used.sum()),
            "windows_rejected": len(rejects),
            "subjects": len(scale),
        },
        "subjects": people,
        "corpora": {
            EEG_IMAGENET.name: {
                "licences": [options.licence],
                "recordings": len(scale),
                "hours": round(hours, 4),
                "subjects": len(scale),
                "channels": [trials.channels],
            }
        },
        "unit": eeg_imagenet.UNIT,
        "values": "raw file, (eeg - means) / stddevs" if raw else "as in the file",
        "design": {**EEG_IMAGENET.design, "impossible": dict(EEG_IMAGENET.impossible)},
        "settings": {
            "low": None,
            "high": settings.high if settings.reading == "ours" else None,
            "notch": "off",
            "sfreq": settings.rate,
            "reference": "recorded",
            "causal": False,
            "samples": settings.width,
            **reading,
        },
        "splitting": assigned.facts | {"dropped": assigned.dropped},
        "rejected": dict(Counter("an image is missing or damaged" if "image" in r else r for r in rejects.values())),
        "salt": "given" if options.salt is not None else "default",
        "labels": sorted({trials.labels[i] for i in trials.label[used]}),
        "channels": list(channel_names(trials.channels)),
        "versions": {"dreamjax": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "source_files": made_of,
        "inputs": inputs,
    }


def _input(
    trials: Trials, own: np.ndarray, split: str, who: dict[str, str], settings: Settings, scale: float, file_hash: str
) -> dict[str, Any]:
    """One entry a person and split. Its hash is of the file and the person: persons of one file are not one another."""
    seconds = np.minimum(trials.length[own] / eeg_imagenet.SFREQ, settings.width / settings.rate).sum()
    return {
        "recording": who["recording"],
        "subject": who["subject"],
        "split": split,
        "sha256": hashlib.sha256(f"{file_hash} {who['subject']}".encode()).hexdigest(),
        "dataset": EEG_IMAGENET.name,
        "format": "eeg-imagenet",
        "sfreq": eeg_imagenet.SFREQ,
        "windows": int(own.sum()),
        "warning": "",
        "notes": [],
        "plan": {"band": list(trials.band or (None, None)), "line": None, "reference": "unknown", "scale": scale},
        "hours": round(float(seconds) / 3600, 5),
        "channels": trials.channels,
    }


def _result(out: str, dataset: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "out": out,
        "already_prepared": False,
        "trials": dataset["totals"]["windows"],
        **dataset["totals"],
        "splits": dataset["splits"],
        "people": dataset["subjects"],
        "splitting": dataset["splitting"],
        "rejected": dataset["rejected"],
        "unit": dataset["unit"],
        "impossible": dataset["design"]["impossible"],
        "wall_s": seconds,
    }
