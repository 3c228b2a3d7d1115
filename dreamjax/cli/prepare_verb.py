"""`dreamjax prepare`: recordings → shards."""

import argparse
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dreamjax.cli.options import refuse_beside, refuse_without, whole_number
from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from dreamjax.signals.preparation.prepare import PreparedDataset, PrepareOptions, TrialSettings, WindowSettings
    from dreamjax.signals.preparation.quality import EegLimits, MegLimits

HELP = "turn recordings (files, folders, BIDS roots) into sharded records ready for training"
EXAMPLE = "dreamjax prepare study/ --out runs/study"
NEEDS = ("tensorflow_datasets", "matplotlib")
OF_TRIALS = (
    *("--subject", "--split-file", "--split-number", "--split-by", "--hold-out", "--reading", "--mvnn"),
    "--channel-set",
)
OF_SOME_TRIALS = (
    *OF_TRIALS,
    "--sfreq",
    "--samples",
    "--high",
    "--tmin",
    "--tmax",
    "--baseline",
)  # only some corpora of trials take them
BESIDE_TRIALS = (  # options without effect on trials that were cut, filtered and referenced before they were published
    *("--list-events", "--dataset", "--subject-pattern", "--unit-scale", "--low", "--notch", "--reference", "--causal"),
    *("--stride", "--min-fraction", "--keep-implausible", "--events", "--event-codes", "--event-offset-ms"),
    *("--keep-labels", "--flat-uv", "--noisy-uv", "--plausible-uv", "--clip-share"),
    *("--clip-run-s", "--held-run-s", "--line-ratio", "--min-good", "--channels", "--montage", "--modality"),
    *("--flat-ft", "--noisy-ft", "--plausible-ft"),
)
NOTES_ALIKE = 3  # up to this many notes that differ only in their numbers are printed one by one
LISTED_TEXTS = 20  # free texts of a recording that --list-events shows
LIMITS = {  # fields of EegLimits and MegLimits with their defaults
    "flat_uv": (0.1, "UV", "a channel is flat below this SD in a window"),
    "noisy_uv": (200.0, "UV", "a channel is noisy above this SD in a window"),
    "flat_ft": (1.0, "FT", "an MEG channel is flat below this SD in a window, in fT (planar gradiometers fT/cm)"),
    "noisy_ft": (5000.0, "FT", "an MEG channel is noisy above this SD in a window"),
    "clip_share": (0.02, "SHARE", "a channel with a larger share of a window in plateaus is clipped, held or railed"),
    "clip_run_s": (0.01, "S", "equal values at a window's extreme for this long count as clipped"),
    "held_run_s": (0.1, "S", "equal values anywhere for this long count as held"),
    "line_ratio": (1.0, "RATIO", "a channel with a higher ratio of line power (50, 60 Hz) to other power is flagged"),
    "min_good": (0.5, "SHARE", "a window with a smaller share of good channels is rejected"),
}  # fmt: skip
STEPS = ("low", "high", "notch", "sfreq", "reference", "causal", "samples", "stride", "min_fraction")
BESIDE_THINGS_MEG = (  # options without effect on THINGS-MEG's BIDS folder, whose events and splits are published
    *("--event-codes", "--keep-labels", "--stride", "--stimuli", "--modality", "--dataset", "--subject-pattern"),
    *("--channels", "--montage", "--unit-scale", "--splits", "--split-seed", "--split-file", "--split-number"),
    *("--split-by", "--hold-out", "--reading", "--keep-implausible"),
)
OF_EVENTS = ("--event-codes", "--event-offset-ms", "--tmin", "--tmax", "--baseline", "--stimuli", "--keep-labels")


def _number_or_none(text: str) -> float | None:
    try:
        return None if text.lower() in ("none", "off") else float(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from problem


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="recordings, folders or BIDS roots; or published trials")
    add("--out", metavar="FOLDER", help="the dataset folder to write")
    add("--list-events", action="store_true", help="print the events of the recordings and write nothing")

    add = parser.add_argument_group("what the recordings are").add_argument
    add("--dataset", metavar="NAME", help="corpus the recordings belong to (default: known corpora, BIDS, the folder)")
    add("--licence", metavar="SPDX", help="licence of recordings whose corpus is not known (default: unknown)")
    add("--subject-pattern", metavar="REGEX", help="searched in the path as given; group 1 is the subject "
        "(default: from the corpus, participants.tsv, words such as sub-01, folders, headers)")  # fmt: skip
    add("--modality", choices=("auto", "eeg", "meg"), default="auto", help="which sensors are read of a recording that "
        "has both (default: auto, those of which there are more)")  # fmt: skip
    add("--channels", nargs="+", default=[], metavar="NAME", help="names of the channels in the order of the file, or "
        "LABEL=NAME for some (default: those of the file)")  # fmt: skip
    add("--montage", default="", metavar="FILE|NAME", help="positions of the electrodes: a table of name, x, y, z, "
        "a .ced or a file that MNE reads, or a montage such as biosemi128 (default: the recording's, else those of a "
        ".ced, .locs, … of the same name)")  # fmt: skip
    add("--unit-scale", action="append", default=[], metavar="[CORPUS=]FACTOR", help="multiply the signal by FACTOR")
    add("--strict", action="store_true", help="refuse files that are shorter than their header states")

    add = parser.add_argument_group("steps").add_argument
    add("--low", type=_number_or_none, default=0.5, metavar="HZ", help="high-pass edge, or none (default: 0.5)")
    add("--high", type=_number_or_none, default=75.0, metavar="HZ", help="low-pass edge, or none (default: 75)")
    add("--notch", default="auto", metavar="auto|off|HZ", help="line frequency (default: the file's, else detected)")
    add("--sfreq", type=float, default=256.0, metavar="HZ", help="sampling rate of the windows (default: 256)")
    add("--reference", choices=("auto", "average", "recorded"), default="auto", help="auto: average where possible")
    add("--causal", action="store_true", help="minimum-phase filters: no sample depends on a later one")
    add("--samples", type=int, default=512, metavar="N", help="samples per window (default: 512)")
    add("--stride", type=int, metavar="N", help="samples from window to window (default: no overlap)")
    add("--min-fraction", type=float, default=0.25, metavar="SHARE", help="shortest trial that is padded, in windows")
    add("--keep-implausible", action="store_true", help="flag recordings of implausible amplitude, do not leave out")

    add = parser.add_argument_group("limits of quality control").add_argument
    for name, (default, unit, meaning) in LIMITS.items():
        option = f"--{name.replace('_', '-')}"
        add(option, type=float, default=default, metavar=unit, help=f"{meaning} (default: {default:g})")
    add(
        "--plausible-uv",
        type=float,
        nargs=2,
        default=(1.0, 100.0),
        metavar=("LOW", "HIGH"),
        help="a recording whose median SD is outside this range is left out, as its unit is probably wrong "
        "(default: 1 100)",
    )
    add("--plausible-ft", type=float, nargs=2, default=(5.0, 2000.0), metavar=("LOW", "HIGH"), help="the same of a "
        "recording of MEG (default: 5 2000)")  # fmt: skip

    add = parser.add_argument_group("windows around events").add_argument
    add("--events", default="", metavar="file|TABLE", help="the recordings' own events, or a CSV or TSV; {stem} in it "
        "stands for the recording's name without suffix")  # fmt: skip
    add("--event-codes", nargs="+", default=[], metavar="CODE", help="only these trial types")
    add("--keep-labels", action="store_true", help="with --events file: use free text of annotations as labels, and "
        "show it (default: codes such as S1, trial types, and what --event-codes names)")  # fmt: skip
    add("--event-offset-ms", type=float, default=0.0, metavar="MS", help="added to every onset")
    add("--tmin", type=float, default=0.0, metavar="S", help="start of a window after its event (default: 0)")
    add("--tmax", type=float, metavar="S", help="end of a window after its event (default: one whole window)")
    add("--baseline", type=float, nargs=2, default=[], metavar=("FROM", "TO"), help="subtract the mean of this span, s")
    add("--onset", choices=("trigger", "events"), default="trigger", help="of THINGS-MEG's BIDS folder: onsets of "
        "images from the trigger channel UPPT001, or from events.tsv (default: trigger)")  # fmt: skip
    add("--stimuli", default="", metavar="FOLDER", help="where every stim_file of the table must lie; "
        "of published trials, the folder of their images (of responses also a .zip)")  # fmt: skip

    add = parser.add_argument_group(
        "published trials: EEG-ImageNet's eeg_5_95_std.pth and its siblings; THINGS-EEG2; responses*.npy with images"
    ).add_argument
    add("--subject", type=int, nargs="+", default=[], metavar="N", help="only these people, as the file numbers them")
    add("--split-file", default="", metavar="FILE", help="published splits: block_splits_by_image_all.pth or "
        "…_single.pth")  # fmt: skip
    add("--split-number", type=whole_number(0), default=0, metavar="N", help="which split of that file (default: 0)")
    add("--split-by", choices=("official", "subject", "image", "class", "block"), help="what is held out (default: "
        "what --split-file says)")  # fmt: skip
    add("--hold-out", type=int, nargs="+", default=[], metavar="N", help="with --split-by subject: whom to test on, "
        "and who chooses the step")  # fmt: skip
    add("--reading", choices=("ours", "dreamdiffusion"), default="ours", help="dreamdiffusion: samples 20 to 460 at "
        "1000 Hz, to be stretched (default: ours, resampled to --sfreq)")  # fmt: skip

    add("--channel-set", choices=("63", "17"), default="", help="of THINGS-EEG2: the 63 channels as NICE sorts them, "
        "or the 17 parietal and occipital ones (default: those of the files)")  # fmt: skip
    add("--mvnn", choices=("train", "as_released", "off"), default="train", help="of THINGS-EEG2's raw recordings, cut "
        "at --tmin (-0.2) to --tmax (1.0), less their --baseline (up to the onset), at --sfreq (250): whitened by "
        "session by the noise of training trials, of training and test trials, or not (default: train)")  # fmt: skip

    add = parser.add_argument_group("splits and pseudonyms").add_argument
    add("--splits", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="shares of the subjects; of "
        "published trials, of their images (default: 0.7 0.15 0.15; of responses*.npy 0.8 0 0.2)")  # fmt: skip
    add("--split-seed", type=int, default=0, metavar="N", help="another seed draws other subjects (default: 0)")
    salt = "of the pseudonyms (default: $DREAMJAX_SALT, else made from the corpus's name)"
    add("--salt", metavar="SECRET", help=salt)
    add("--key-file", default="", metavar="FILE", help="write pseudonym → path here, outside the dataset's folder")

    add = parser.add_argument_group("running").add_argument
    add("--name", default="", help="of the dataset (default: from the folder)")
    add("--workers", type=int, metavar="N", help="child processes (default: one per core; 0: none, unprotected)")
    add(
        "--timeout",
        type=float,
        default=300.0,
        metavar="S",
        help="a recording without progress is given up (default: 300)",
    )
    add("--memory-limit", type=float, default=4.0, metavar="GIB", help="leave out a recording whose child process "
        "needs more memory than this (default: 4)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace --out")


def run(args: argparse.Namespace) -> "PreparedDataset | JsonDict":
    from dreamjax import api
    from dreamjax.signals.recordings.corpora import things_meg
    from dreamjax.signals.recordings.corpora.trial_corpora import trial_corpus_of

    corpus = trial_corpus_of(args.paths)
    tree = len(args.paths) == 1 and things_meg.is_tree(args.paths[0]) and not (args.events or args.list_events)
    if tree:
        refuse_beside(f"the trials of {args.paths[0]}", args, *BESIDE_THINGS_MEG)
    else:
        refuse_without("the BIDS folder of THINGS-MEG", args, "--onset")
    if corpus:
        idle = [option for option in OF_SOME_TRIALS if option not in corpus.takes]
        refuse_beside(f"the trials of {args.paths[0]}", args, *BESIDE_TRIALS, *idle)
        if args.reading != "ours":
            refuse_beside(f"--reading {args.reading}", args, "--sfreq", "--samples", "--high")
    elif not tree:
        refuse_without("a file such as eeg_5_95_std.pth", args, *OF_TRIALS)
        if args.list_events:
            from dreamjax.signals.preparation import prepare

            return prepare.list_events(args.paths, args.timeout, args.memory_limit)
        if not args.events:
            refuse_without("--events", args, *OF_EVENTS)
        elif args.events == "file":
            refuse_beside("--events file", args, "--stimuli")
        else:
            refuse_beside("a table of events", args, "--keep-labels")
    if not args.out:
        raise UserError("prepare wants --out FOLDER" + ("" if corpus else " (or --list-events)"))
    try:
        read = _trial_settings if corpus else _things_meg_settings if tree else _window_settings
        settings = read(args)
        options = _options(args)
    except ValueError as problem:
        raise UserError(str(problem)) from problem
    return api.prepare(args.paths, args.out, settings, options)


def _trial_settings(args: argparse.Namespace) -> "TrialSettings":
    from dreamjax.signals.preparation.convert_trials import TrialSettings
    from dreamjax.signals.preparation.epochs import EpochSettings

    given = {name: getattr(args, name) for name in ("sfreq", "high", "samples") if f"--{name}" in args.given}
    cut = {name: getattr(args, name) for name in ("tmin", "tmax", "mvnn") if f"--{name}" in args.given}
    epochs = EpochSettings(baseline=tuple(args.baseline), **cut)
    return TrialSettings(args.reading, channel_set=args.channel_set, epochs=epochs, **given)


def _window_settings(args: argparse.Namespace) -> "WindowSettings":
    from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings

    eeg, meg = _quality(args)
    return WindowSettings(
        **{name: getattr(args, name) for name in STEPS},
        limits=eeg,
        meg_limits=meg,
        events=EventWindows(
            source=args.events,
            codes=tuple(args.event_codes),
            keep_labels=args.keep_labels,
            offset_ms=args.event_offset_ms,
            tmin=args.tmin,
            tmax=args.tmax,
            baseline=tuple(args.baseline),
        ),
    )


def _things_meg_settings(args: argparse.Namespace) -> "WindowSettings":
    from dreamjax.signals.preparation import things_meg_inputs

    eeg, meg = _quality(args)
    chosen = {name: getattr(args, name) for name in (*STEPS, "tmin", "tmax") if _option(name) in args.given}
    chosen |= {"baseline": args.baseline} if "--baseline" in args.given else {}
    return things_meg_inputs.settings(
        args.onset,
        **chosen,
        offset_ms=args.event_offset_ms,
        limits=dataclasses.replace(eeg, implausible="flag"),
        meg_limits=meg,
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _quality(args: argparse.Namespace) -> "tuple[EegLimits, MegLimits]":
    from dreamjax.signals.preparation.quality import EegLimits, MegLimits

    low, high = args.plausible_uv
    limits = {name: getattr(args, name) for name in LIMITS} | {"plausible_low_uv": low, "plausible_high_uv": high}
    of_meg = {name: limits.pop(name) for name in ("flat_ft", "noisy_ft")}
    of_meg |= dict(zip(("plausible_low_ft", "plausible_high_ft"), args.plausible_ft, strict=True))
    return EegLimits(implausible="flag" if args.keep_implausible else "reject", **limits), MegLimits(**of_meg)


def _options(args: argparse.Namespace) -> "PrepareOptions":
    from dreamjax.signals.preparation.inputs import PrepareOptions
    from dreamjax.signals.recordings.electrodes import Electrodes
    from dreamjax.signals.recordings.identity import SPLITS, SplitRequest

    same = ("name", "workers", "strict", "overwrite", "key_file", "dataset", "licence", "subject_pattern", "stimuli")
    return PrepareOptions(
        **{name: getattr(args, name) for name in (*same, "modality", "verbose")},
        electrodes=Electrodes(tuple(args.channels), args.montage),
        timeout_s=args.timeout,
        memory_gib=args.memory_limit,
        salt=args.salt or os.environ.get("DREAMJAX_SALT"),
        splits=SplitRequest(
            by=args.split_by,
            file=args.split_file,
            number=args.split_number,
            subjects=tuple(args.subject),
            hold_out=tuple(args.hold_out),
            fractions=dict(zip(SPLITS, args.splits, strict=True)) if args.splits else {},
            seed=args.split_seed,
        ),
        unit_scales={name: float(factor) for name, _, factor in (t.rpartition("=") for t in args.unit_scale)},
    )


def render(result: "PreparedDataset | JsonDict") -> str:
    if isinstance(result, dict):
        return _event_table(result["recordings"])
    return _summary(result) if result.trials is None else _trial_summary(result)


def _trial_summary(result: "PreparedDataset") -> str:
    people, splitting = result.people or {}, result.splitting or {}
    done = ": already prepared, " if result.already_prepared else ": "
    splits = ", ".join(
        f"{n:,} {split} of {counted(people[split], 'person', 'people')}" for split, n in result.splits.items()
    )
    lines = [
        f"{result.out}{done}{result.trials} of {result.trials_in_file} trials ({splits}), split by {splitting['by']}"
    ]
    left_out = [f"{n} {why}" for why, n in {**splitting["dropped"], **(result.rejected or {})}.items() if n]
    lines += [f"left out: {'; '.join(left_out)}"] if left_out else []
    lines += [f"unit: {result.unit}"]
    lines += [f"no control over {name}: {why}" for name, why in (result.impossible or {}).items()]
    return "\n".join(lines)


def _limits(limits: Mapping[str, float | str]) -> str:
    """Return the limits of quality control as the options that change them."""
    shown = [f"--{name.replace('_', '-')} {limits[name]:g}" for name in LIMITS if name in limits]
    for unit in ("uv", "ft"):
        if (low := limits.get(f"plausible_low_{unit}")) is not None:
            shown.append(f"--plausible-{unit} {low:g} {limits[f'plausible_high_{unit}']:g}")
    return f"quality limits: {' '.join(shown)}"


def _summary(result: "PreparedDataset") -> str:
    if result.already_prepared:
        onset = f", onsets of images from {result.onset}" if result.onset else ""
        return f"{result.out}: already prepared, {counted(result.windows, 'window')}, {result.hours:.2f} h{onset}"
    splits = ", ".join(f"{n} {split}" for split, n in result.splits.items())
    unknown = result.recordings_of_unknown_subjects or 0
    recordings = counted(result.recordings, "recording")
    if unknown == result.recordings:
        origin = f"{recordings} of unknown subjects"
    elif unknown:
        origin = f"{recordings} of {counted(result.subjects, 'subject')} ({unknown} of unknown subjects)"
    else:
        origin = f"{recordings} of {counted(result.subjects, 'subject')}"
    lines = [
        f"{result.out}: {counted(result.windows, 'window')} ({splits}), {result.hours:.2f} h from {origin}",
        f"{counted(result.windows_rejected, 'window')} rejected, "
        f"{counted(result.recordings_left_out or 0, 'recording')} left out; see report.html and rejects.jsonl in it",
    ]
    lines += [_limits(result.limits)] if result.limits else []
    if result.onset:
        lost = (result.mismatched_trials or {}).get("total", 0)
        alone = f"{counted(lost, 'trial')} of triggers or table without a partner"
        lines.append(f"onsets of images: {result.onset} (--onset); {alone}")
    speed = result.speed or {}
    if speed["real_time_per_core"]:
        lines.append(
            f"{speed['hours_per_second_per_core']:.3f} h of recording per second and core = "
            f"{speed['real_time_per_core']:.0f} x real time ({speed['real_time_per_core_with_start']:.0f} x with the "
            f"start of {speed['cores']} processes); peak memory of one {speed['peak_memory_mb']} MiB"
        )
    if result.reused:
        lines.append(f"{result.reused} recordings were ready from an interrupted run")
    lines += [f"left out: {entry['path']}: {entry['reason']}" for entry in result.failed]
    lines += _note_lines(result.notes or ())
    lines += [f"given twice: {entry['path']}: {entry['how']}: {entry['of']}" for entry in result.copies or ()]
    if unknown:
        lines.append(
            "subjects unknown: recordings may share people, and were split by recording; name the subjects with "
            "--subject-pattern, or put each person's recordings into a folder"
        )
    return "\n".join(lines)


def _counts(texts: dict[str, int]) -> str:
    most = [f"{text!r} ({n})" for text, n in list(texts.items())[:LISTED_TEXTS]]
    return ", ".join(most) + (f" and {len(texts) - LISTED_TEXTS} others" if len(texts) > LISTED_TEXTS else "")


def _note_lines(notes: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the notes of the readers as lines; many notes that differ only in their numbers share one line."""
    alike: dict[str, list[Mapping[str, str]]] = {}
    for entry in notes:
        alike.setdefault(re.sub(r"\d+(\.\d+)?", "0", entry["note"]), []).append(entry)
    lines = []
    for entries in alike.values():
        shown = entries if len(entries) <= NOTES_ALIKE else entries[:1]
        more = (
            f" (similar in {len(entries) - 1} other recordings, see report.html)" if len(entries) > len(shown) else ""
        )
        lines += [f"note: {entry['path']}: {entry['note']}{more}" for entry in shown]
    return lines


def _event_table(recordings: list[JsonDict]) -> str:
    from dreamjax.reports.tables import Table

    lines = []
    for r in recordings:
        if "reason" in r:
            lines += [f"{r['file']}: {r['reason']}", ""]
            continue
        lines.append(f"{r['file']}: {r['n_events']} events in {r['duration']:g} s at {r['sfreq']:g} Hz")
        rows = []
        for c in r["codes"]:
            every = "{min:g} / {median:g} / {max:g}".format(**c["interval"]) if c["interval"] else ""
            rows.append([c["code"], str(c["count"]), f"{c['first']:.3f}", every, f"{c['duration']:g}"])
        header = ["code", "count", "first, s", "every, s (min / median / max)", "lasting, s"]
        lines += ["  " + line for line in Table(header, rows).text().splitlines()] if rows else []
        if texts := r["free_text"]:
            lines.append("  free text, used only if named in --event-codes or with --keep-labels: " + _counts(texts))
        lines += [f"  trials {label}: {n}" for label, n in r["trials"].items()]
        lines += [f"  note: {note}" for note in r["notes"]] + [""]
    return "\n".join(lines).rstrip()
