"""What is written beside the shards: dataset.json, rejects.jsonl, and on request the key of the pseudonyms."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from dreamjax import __version__
from dreamjax.errors import UserError
from dreamjax.signals.preparation import convert, windows
from dreamjax.signals.preparation.windows import Settings
from dreamjax.signals.recordings.identity import SPLITS
from dreamjax.signals.recordings.readers.recording import Source
from dreamjax.signals.recordings.scrub import scrubbed
from dreamjax.storage import atomic

if TYPE_CHECKING:
    from dreamjax.signals.preparation.prepare import Options

PACKAGES = ("numpy", "scipy", "mne", "edfio", "array_record")
Done = Sequence[tuple[Source, dict[str, Any]]]  # converted: where from, and the part's summary
Failed = Sequence[tuple[Source, str]]  # left out: where from, and why


def describe(
    done: Done,
    failed: Failed,
    splits: Mapping[tuple[str, str], str],
    settings: Settings,
    options: "Options",
) -> dict[str, Any]:
    """dataset.json but for the shards: totals, corpora, steps, versions, and one entry per input."""
    people = {s: sorted({(x.dataset, x.subject) for x, _ in done if splits[x.dataset, x.subject] == s}) for s in SPLITS}
    kept = sum(r["windows"] for _, r in done)
    inputs = []
    for source, r in done:
        who = convert.identity_of(source, options.salt)
        entry = {key: r[key] for key in ("sha256", "dataset", "format", "sfreq", "windows", "warning", "notes", "plan")}
        inputs.append(
            {"recording": who.recording, "subject": who.subject, "split": splits[source.dataset, source.subject]}
            | entry
            | {"hours": round(r["seconds"] / 3600, 5), "channels": len(r["ch_names"])}
        )
    return {
        "totals": {
            "recordings": len(done),
            "recordings_left_out": len(failed),
            "hours_read": round(sum(r["seconds"] for _, r in done) / 3600, 4),
            "hours": round(sum(r["valid_samples"] for _, r in done) / settings.sfreq / 3600, 4),
            "windows": kept,
            "windows_rejected": sum(r["judged"] - r["windows"] for _, r in done),
            "subjects": sum(map(len, people.values())),
        },
        "subjects": {split: len(found) for split, found in people.items()},
        "corpora": _corpora(done),
        "settings": windows.described(settings),
        "splitting": {"fractions": dict(options.fractions), "seed": options.split_seed, "by": "subject"},
        "salt": "given" if options.salt is not None else "default",
        "unit_scales": _unit_scales(done, options),
        "labels": sorted({label for _, r in done for label in r["labels"]} - {""}),
        "channels": sorted({c for _, r in done for c in r["ch_names"]}),
        "versions": {"dreamjax": __version__, "python": platform.python_version(), **_versions()},
        "inputs": inputs,
        "failed_inputs": sorted(input_hash_or_empty(source) for source, _ in failed),
    }


def _unit_scales(done: Done, options: "Options") -> dict[str, float]:
    """Factors by corpus, which a user names by its folder: a folder that may name a person is not repeated."""
    names = {source.dataset: source.corpus or source.dataset for source, _ in done}
    return {names.get(name, convert.UNKNOWN if name else ""): factor for name, factor in options.unit_scales.items()}


def _corpora(done: Done) -> dict[str, dict[str, Any]]:
    corpora: dict[str, dict[str, Any]] = {}
    for source, r in done:
        entry = corpora.setdefault(
            r["dataset"], {"licences": set(), "recordings": 0, "hours": 0.0, "people": set(), "channels": set()}
        )
        entry["licences"].add(r["licence"])
        entry["people"].add((source.dataset, source.subject))
        entry["channels"].add(len(r["ch_names"]))
        entry["recordings"] += 1
        entry["hours"] += r["seconds"] / 3600
    return {
        name: {
            "licences": sorted(e["licences"]),
            "recordings": e["recordings"],
            "hours": round(e["hours"], 4),
            "subjects": len(e["people"]),
            "channels": sorted(e["channels"]),
        }
        for name, e in sorted(corpora.items())
    }


def input_hash_or_empty(source: Source) -> str:
    """`convert.input_hash`, or "" for what cannot be read."""
    try:
        return convert.input_hash(source)
    except OSError:
        return ""


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_rejects(path: Path, done: Done, failed: Failed, options: "Options") -> None:
    """One line per recording or stretch left out. A recording is named by its id: file names may name a person."""
    lines = []
    for source, reason in failed:
        lines.append(_named(source, options) | {"whole": True, "reason": scrubbed(reason, source)})
    for source, r in done:
        lines += [_named(source, options) | {"whole": False} | stretch for stretch in r["rejects"]]
    atomic.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _named(source: Source, options: "Options") -> dict[str, str]:
    who = convert.identity_of(source, options.salt)
    return {"recording": who.recording, "dataset": source.corpus or source.dataset, "reader": source.reader}


def refuse_key_inside(key_file: str, out: str | os.PathLike[str]) -> None:
    """Raises UserError where the key of the pseudonyms would lie in the dataset's folder and be passed on with it."""
    folder = _whole_path(out)
    parts = folder.parent / f".{folder.name}.parts"
    if key_file and {folder, parts} & {_whole_path(key_file), *_whole_path(key_file).parents}:
        raise UserError(
            f"--key-file {key_file} lies in the output; keep it away from the dataset, in a folder of its own"
        )


def _whole_path(path: str | os.PathLike[str]) -> PurePath:
    return PurePosixPath(str(path)) if "://" in str(path) else Path(path).resolve()


def write_key(path: str, sources: Iterable[Source], options: "Options") -> None:
    """recording id → path and subject: the key of the pseudonyms, to be kept away from the data."""
    lines = [
        {"recording": who.recording, "subject_id": who.subject, "path": source.name, "subject": source.subject}
        for source in sources
        for who in [convert.identity_of(source, options.salt)]
    ]
    atomic.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
