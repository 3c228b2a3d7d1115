"""Write a folder of images generated from trials, with the images that were seen; an interrupted one is continued.

request.json     the request, written first: the same command continues, another one is refused
00012-0.png      (trial, sample)
truth/NAME.png   the image that was seen, at the same size, where it is known
grid.png         the first images
gallery.html     trials drawn at random, with the scores of the run if it has any
trials.jsonl     the source of each image, written last: the folder is complete
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
from etils import epath

from dreamjax.console import counted, log, progress
from dreamjax.errors import UserError
from dreamjax.generation import batches, recording_windows
from dreamjax.generation.from_trials import TrialGenerator, TrialRequest
from dreamjax.generation.recording_windows import EventTimes
from dreamjax.reports import figures, image_report
from dreamjax.reports.image_report import TrialImages
from dreamjax.signals.datasets import records
from dreamjax.storage import atomic, image_files, locks, manifest, paths, presence, sniffing
from dreamjax.systems import opening
from dreamjax.systems.base import Run
from dreamjax.targets import image_folder, images
from dreamjax.targets.trials import ImageTrials
from dreamjax.typing import JsonDict

REQUEST, LAST = "request.json", "trials.jsonl"
PROVES_NOTHING = "that the generated images are similar to them is not evidence about the model"


class TrialSummary(batches.Summary):
    """The summary of what `generate` wrote, as JSON."""

    out: str
    images: int
    trials: int
    of: int
    split: str | None
    grid: str
    gallery: str


@dataclass(frozen=True)
class FolderEntry:
    """The source of a trial's images: a line of trials.jsonl."""

    trial: int
    start: float
    seen: str  # file; "" where it is not known
    image: str
    trained_on: bool
    made: list[str]  # files

    @property
    def files(self) -> list[str]:
        """Return the file of the image that was seen, where it is known, and those of the generated images."""
        return [self.seen, *self.made] if self.seen else self.made


def generate(
    workdir: epath.PathLike,
    request: TrialRequest,
    out: epath.PathLike,
    *,
    times: EventTimes | None = None,
    dtype: str = "float32",
    attention: str = "auto",
) -> TrialSummary:
    """Generate images of held-out trials, or of `times` in recordings. Raise UserError if `out` holds other images."""
    out = paths.reachable(out)
    run = opening.open_run(workdir)
    wanted = _wanted(run, request, times, dtype)
    if (finished := _finished(out, wanted)) is not None:
        return finished
    with locks.output(out):
        finished = _finished(out, wanted)  # by the process that held the lock until now
        return finished or _write(run, TrialGenerator.open(run, dtype, attention), request, out, times, wanted)


def _write(
    run: Run,
    generator: TrialGenerator,
    request: TrialRequest,
    out: epath.Path,
    times: EventTimes | None,
    wanted: JsonDict,
) -> TrialSummary:
    """Write the folder, or what is missing of it."""
    with _trials(generator, request, times, run.workdir) as trials:
        chosen = request.chosen(trials)
        side = generator.side(request)
        trials.windows.check_electrodes(trials.record[chosen], ", ".join(request.input) or "the run")
        if presence.exists(out / REQUEST):
            log.info("%s: continuing where it was", out)
        manifest.write_json(out / REQUEST, wanted)
        if trials.known:
            (out / "truth").mkdir(exist_ok=True)
        trained = _trained_on(generator, trials)
        entries = [_entry(trials, int(trial), request, trained) for trial in chosen]
        try:
            _generate_missing(generator, trials, chosen, request, side, entries, out)
        except UserError:
            if not any(entry.suffix == ".png" for entry in presence.entries(out)):  # nothing to continue from
                out.rmtree()
            raise
        summary: TrialSummary = {
            "out": str(out),
            "images": len(chosen) * request.samples,
            "trials": len(chosen),
            "of": len(trials),
            "split": request.split if trials.known and not times else None,
            "grid": str(out / "grid.png"),
            "gallery": str(out / "gallery.html"),
            **batches.summary(generator.model, request),
        }
    _write_pages(out, entries, run, summary, request)
    lines = [json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries]
    atomic.write_text(out / LAST, "".join(lines))
    manifest.write_json(out / REQUEST, wanted | {"told": summary})
    return summary


def _wanted(run: Run, request: TrialRequest, times: EventTimes | None, dtype: str) -> JsonDict:
    """Return what identifies a command: everything but the batch size."""
    fields = asdict(request) | {"when": asdict(times) if times else None, "dtype": dtype}
    fields.pop("batch")
    place = str(paths.reachable(run.workdir))
    return json.loads(json.dumps({"run": place, "step": run.step, "examples": run.examples, "request": fields}))


def _finished(out: epath.Path, wanted: JsonDict) -> TrialSummary | None:
    """Return the summary of the same command if it is complete, or None if images are missing."""
    if (presence.is_folder(out) and not presence.entries(out)) or not presence.exists(out):
        return None
    if not presence.exists(out / REQUEST):
        raise UserError(f"{out} exists already; choose another --out or delete it")
    before = sniffing.read_json(out / REQUEST, "choose another --out or delete the folder")
    summary = before.pop("told", None)
    if before != wanted:
        old, new = ({**one, **one.get("request", {})} for one in (before, wanted))
        other = sorted(k for k in new if k != "request" and old.get(k) != new[k])
        what = f"{', '.join(other)} {'differ' if len(other) > 1 else 'differs'}"
        raise UserError(f"{out} holds images of another command ({what}); choose another --out or delete it")
    if summary is not None and presence.exists(out / LAST):
        log.info("%s is complete already", out)
        return summary
    return None


@contextmanager
def _trials(
    generator: TrialGenerator, request: TrialRequest, times: EventTimes | None, workdir: epath.PathLike
) -> Iterator[ImageTrials]:
    """Yield the trials that images are generated from."""
    recordings = [path for path in request.input if not records.is_dataset(path)]
    if not recordings:
        if times:
            raise UserError(f"{request.input[0] if request.input else 'the run'}: --at and --events take a recording")
        if not generator.task.target.folder:  # for an imported run it is unknown which images were seen
            if not request.input:
                raise UserError("the run came without data: name dataset folders or recordings with --input")
            yield generator.windows(request.input)
        elif request.input and not (windows := generator.windows(request.input)).known:
            log.info("it is unknown what was seen in these trials: images of all of them are generated")
            yield windows
        else:
            yield generator.trials(request.split, request.input)
        return
    if len(recordings) < len(request.input):
        raise UserError(f"{recordings[0]} is a recording and the others are dataset folders; give one or the other")
    with recording_windows.prepared(recordings, generator.task.signal, times or EventTimes(), workdir) as folder:
        yield generator.windows((folder,))


def _trained_on(generator: TrialGenerator, trials: ImageTrials) -> set[str]:
    """Return the names of the images that are in the training set, as far as the images seen are known."""
    target = generator.task.target
    if not trials.known:
        return set()
    if target.splits == "prepared":
        train = generator.trials("train")
        return {train.images[i].name for i in np.unique(train.image)}
    shares = (target.val_share, target.test_share, target.split_by)
    return {entry.name for entry in trials.images if image_folder.split_of(entry, *shares) == "train"}


def _entry(trials: ImageTrials, trial: int, request: TrialRequest, trained: set[str]) -> FolderEntry:
    known = trials.image[trial] >= 0
    name = trials.images[trials.image[trial]].name if known else ""
    seen = f"truth/{name.replace('/', '_').rpartition('.')[0]}.png" if known else ""
    made = [f"{trial:05d}-{sample}.png" for sample in range(request.samples)]
    return FolderEntry(trial, round(float(trials.start[trial]), 4), seen, name, name in trained, made)


def _generate_missing(
    generator: TrialGenerator,
    trials: ImageTrials,
    chosen: np.ndarray,
    request: TrialRequest,
    side: int,
    entries: Sequence[FolderEntry],
    out: epath.Path,
) -> None:
    """Generate and write the images that do not exist yet."""
    for folder in (out, out / "truth"):
        atomic.remove_leftovers(folder)
    existing = {path.name for path in presence.entries(out) if path.suffix == ".png" and image_files.is_whole(path)}
    todo = [i for i, entry in enumerate(entries) if not existing.issuperset(entry.made)]
    with progress("generate", len(todo) * request.samples) as bar:
        made = generator.images(trials, chosen[todo], request, bar)
        for i in todo:
            if entries[i].seen:
                truth = images.load(trials.images[trials.image[chosen[i]]].path, side)
                image_files.write_png(out / entries[i].seen, truth)
            for file in entries[i].made:
                image_files.write_png(out / file, next(made))


def _write_pages(
    out: epath.Path, entries: Sequence[FolderEntry], run: Run, summary: TrialSummary, request: TrialRequest
) -> None:
    """Write grid.png and gallery.html."""
    files = [
        ("seen" if file == entry.seen else f"trial {entry.trial}", file) for entry in entries for file in entry.files
    ]
    labels, first = zip(*files[: figures.GRID_IMAGES], strict=True)
    grid = figures.image_grid([image_files.load_sized(out / file) for file in first], labels)
    atomic.write_bytes(out / "grid.png", grid)

    def trial(number: int) -> TrialImages:
        entry = entries[number]
        label = f"trial {entry.trial}{', trained on' if entry.trained_on else ''}"
        seen = image_files.load_sized(out / entry.seen) if entry.seen else None
        return TrialImages(label, seen, [image_files.load_sized(out / file) for file in entry.made])

    scores = image_report.saved(run.workdir, run.step)
    of = f"split {summary['split']}" if summary["split"] else "the recording"
    trained = sum(entry.trained_on for entry in entries)
    warnings = [f"{trained} of these trials are of images that training showed: {PROVES_NOTHING}"] if trained else []
    for warning in warnings:
        log.warning(warning)
    page = image_report.page(
        title=f"Images of {counted(len(entries), 'trial')} of {of}",
        notes=[
            f"{run.workdir}, step {run.step}; {summary['sampler']}, {summary['steps']} steps, guidance "
            f"{summary['guidance']:g}, seed {summary['seed']}"
        ],
        trial=trial,
        count=len(entries),
        of=summary["of"],
        seed=request.seed,
        tables=image_report.tables(scores) if scores and image_report.made_alike(scores, summary) else (),
        warnings=[*warnings, *(scores["warnings"] if scores else ())],
        about=image_report.about(scores) if scores else (),
        command=f"dreamjax evaluate {run.workdir}",
    )
    atomic.write_text(out / "gallery.html", page)
