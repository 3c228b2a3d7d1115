"""A folder of images made from trials, beside what was seen; interrupted, it goes on where it was.

request.json     what was asked for, written first: the same command goes on, another one is refused
00012-0.png      (trial, sample)
truth/NAME.png   what was seen, at the same size, where that is known
grid.png         the first ones
gallery.html     trials drawn at random, with the scores of the run where there are any
trials.jsonl     what each was made from, written last: the folder is whole
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import counted, log, progress
from dreamjax.errors import UserError
from dreamjax.generation import batches, from_trials, recording_windows
from dreamjax.generation.from_trials import Dreamer, Request
from dreamjax.generation.recording_windows import Moments
from dreamjax.reports import image_page, image_report
from dreamjax.signals.datasets import records
from dreamjax.storage import atomic, image_files, paths, sniffing
from dreamjax.systems import opening
from dreamjax.targets import image_folder, image_grid, images
from dreamjax.targets.trials import ImageTrials

REQUEST, LAST = "request.json", "trials.jsonl"
PROVES_NOTHING = "that what is made is like them says nothing of the model"


def generate(
    workdir: epath.PathLike,
    request: Request,
    out: epath.PathLike,
    *,
    when: Moments | None = None,
    dtype: str = "float32",
    attention: str = "auto",
) -> dict[str, Any]:
    """Images of a run's held-out trials, or of moments of recordings (`when`), in `out`.

    Returns what the command says. Raises UserError where `out` holds something else.
    """
    out = paths.reachable(out)
    run = opening.open_run(workdir)
    wanted = _wanted(run, request, when, dtype)
    done = _begun(out, wanted)
    if done is not None:
        return done
    dreamer = Dreamer.open(run, dtype, attention)
    with _found(dreamer, request, when, workdir) as found:
        own = from_trials.chosen(found, request)
        side = dreamer.side(request)
        _refuse_unheard(found, own, request)
        if out.exists():
            log.info("%s: going on where it was", out)
        (out / "truth" if found.known else out).mkdir(parents=True, exist_ok=True)
        atomic.write_text(out / REQUEST, json.dumps(wanted, indent=1))
        trained = _trained_on(dreamer, found)
        entries = [_entry(found, int(trial), request, trained) for trial in own]
        try:
            _paint(dreamer, found, own, request, side, entries, out)
        except UserError:
            if not any(out.glob("*-*.png")):  # nothing to go on from
                out.rmtree()
            raise
        told = {
            "out": str(out),
            "images": len(own) * request.samples,
            "trials": len(own),
            "of": len(found),
            "split": request.split if found.known and not when else None,
            "grid": str(out / "grid.png"),
            "gallery": str(out / "gallery.html"),
            **batches.described(dreamer.model, request),
        }
    _show(out, entries, run, told, request)
    atomic.write_text(out / LAST, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in entries))
    atomic.write_text(out / REQUEST, json.dumps(wanted | {"told": told}, indent=1))
    return told


def _wanted(run: Any, request: Request, when: Moments | None, dtype: str) -> dict[str, Any]:
    """What makes two commands the same; the batch does not."""
    asked = asdict(request) | {"when": asdict(when) if when else None, "dtype": dtype}
    asked.pop("batch")
    place = str(paths.reachable(run.workdir))
    return json.loads(json.dumps({"run": place, "step": run.step, "examples": run.examples, "request": asked}))


def _begun(out: epath.Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """What was told at the end of the same command, or None where there is something to do."""
    if not out.exists():
        return None
    if not (out / REQUEST).exists():
        raise UserError(f"{out} exists already; choose another --out or delete it")
    before = sniffing.read_json(out / REQUEST, "choose another --out or delete the folder")
    told = before.pop("told", None)
    if before != wanted:
        flat, own = ({**one, **one.get("request", {})} for one in (before, wanted))
        other = sorted(k for k in own if k != "request" and flat.get(k) != own[k])
        what = f"{', '.join(other)} {'differ' if len(other) > 1 else 'differs'}"
        raise UserError(f"{out} holds images of another command ({what}); choose another --out or delete it")
    if told is not None and (out / LAST).exists():
        log.info("%s is whole already", out)
        return told
    return None


@contextmanager
def _found(dreamer: Dreamer, request: Request, when: Moments | None, workdir: epath.PathLike) -> Iterator[ImageTrials]:
    """The trials that images are made of."""
    recordings = [path for path in request.input if not records.is_dataset(path)]
    if not recordings:
        if when:
            raise UserError(f"{request.input[0] if request.input else 'the run'}: --at and --events take a recording")
        if not dreamer.task.target.folder:  # of a run from elsewhere nobody knows what was seen
            if not request.input:
                raise UserError("the run came without data: name dataset folders or recordings with --input")
            yield dreamer.windows(request.input)
            return
        if request.input and not (found := dreamer.windows(request.input)).known:
            log.info("of these trials it is not known what was seen: images of all of them are made")
            yield found
            return
        yield dreamer.trials(request.split, request.input)
        return
    if len(recordings) < len(request.input):
        raise UserError(f"{recordings[0]} is a recording and the others are dataset folders; give one or the other")
    with recording_windows.prepared(recordings, dreamer.task.signal, when or Moments(), workdir) as folder:
        yield dreamer.windows((folder,))


def _refuse_unheard(found: ImageTrials, own: np.ndarray, request: Request) -> None:
    """Raises UserError for windows in which the model hears nothing: no channel of theirs is one that it knows."""
    rows = found.read(own)
    if "channel_ok" in rows and (dead := int((~rows["channel_ok"].any(axis=1)).sum())):
        raise UserError(
            f"{', '.join(request.input) or 'the run'}: {dead} of {len(own)} windows have no channel whose position is "
            "known, so nothing of them would be in an image; name the channels as in the 10-20 system"
        )


def _trained_on(dreamer: Dreamer, found: ImageTrials) -> set[str]:
    """Names of those images that training showed, as far as it is known what was seen."""
    target = dreamer.task.target
    if not found.known:
        return set()
    if target.splits == "prepared":
        train = dreamer.trials("train")
        return {train.images[i].name for i in np.unique(train.image)}
    shares = (target.val_share, target.test_share, target.split_by)
    return {entry.name for entry in found.images if image_folder.split_of(entry, *shares) == "train"}


def _entry(found: ImageTrials, trial: int, request: Request, trained: set[str]) -> dict[str, Any]:
    known = found.image[trial] >= 0
    name = found.images[found.image[trial]].name if known else ""
    return {
        "trial": trial,
        "start": round(float(found.start[trial]), 4),
        "seen": f"truth/{name.replace('/', '_').rpartition('.')[0]}.png" if known else "",
        "image": name,
        "trained_on": name in trained,
        "made": [f"{trial:05d}-{sample}.png" for sample in range(request.samples)],
    }


def _paint(
    dreamer: Dreamer,
    found: ImageTrials,
    own: np.ndarray,
    request: Request,
    side: int,
    entries: Sequence[dict[str, Any]],
    out: epath.Path,
) -> None:
    """The images that are not there yet."""
    for path in (*out.glob(".*.part"), *(out / "truth").glob(".*.part")):  # of a process that was killed as it wrote
        path.unlink()
    there = {path.name for path in out.glob("*.png") if image_files.is_whole(path)}
    todo = [i for i, entry in enumerate(entries) if not there.issuperset(entry["made"])]
    with progress("generate", len(todo) * request.samples) as bar:
        made = dreamer.images(found, own[todo], request, bar)
        for i in todo:
            trial, entry = own[i], entries[i]
            if entry["seen"]:
                truth = images.load(found.images[found.image[trial]].path, side)
                image_files.write_png(out / entry["seen"], truth)
            for file in entry["made"]:
                image_files.write_png(out / file, next(made))


def _show(out: epath.Path, entries: Sequence[dict[str, Any]], run: Any, told: dict[str, Any], request: Request) -> None:
    """grid.png and gallery.html."""
    shown: list[tuple[str, np.ndarray]] = []
    for entry in entries:
        if len(shown) >= image_grid.MOST:
            break
        shown += [("seen", image_files.load_sized(out / entry["seen"]))] if entry["seen"] else []
        shown += [(f"trial {entry['trial']}", image_files.load_sized(out / file)) for file in entry["made"]]
    image_grid.page(out / "grid.png", [image for _, image in shown], [label for label, _ in shown])
    chosen = image_page.drawn(len(entries), request.seed)
    rows = [
        image_page.Row(
            f"trial {entry['trial']}{', trained on' if entry['trained_on'] else ''}",
            image_files.load_sized(out / entry["seen"]) if entry["seen"] else None,
            [image_files.load_sized(out / file) for file in entry["made"]],
        )
        for entry in (entries[i] for i in chosen)
    ]
    scores = image_report.saved(run.workdir, run.step)
    of = f"split {told['split']}" if told["split"] else "the recording"
    trained = sum(entry["trained_on"] for entry in entries)
    warnings = [f"{trained} of these trials are of images that training showed: {PROVES_NOTHING}"] if trained else []
    for warning in warnings:
        log.warning(warning)
    page = image_page.page(
        title=f"Images of {counted(len(entries), 'trial')} of {of}",
        notes=[
            f"{run.workdir}, step {run.step}; {told['sampler']}, {told['steps']} steps, guidance "
            f"{told['guidance']:g}, seed {told['seed']}",
            *image_page.of(len(rows), told["of"]),
        ],
        rows=rows,
        tables=image_report.tables(scores) if scores else (),
        warnings=[*warnings, *(scores["warnings"] if scores else ())],
        about=image_report.about(scores) if scores else (),
        command=f"dreamjax evaluate {run.workdir}",
    )
    atomic.write_text(out / "gallery.html", page)
