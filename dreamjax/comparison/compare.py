"""Compare retrieval systems: do every job that is not done yet, then make the table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
from etils import epath

from dreamjax.comparison import controls, fitting, over_time, page, result, run_folder, window_models
from dreamjax.comparison.fitting import Fitted
from dreamjax.comparison.jobs import RIDGE, Job, Request, of_ridge
from dreamjax.comparison.jobs import jobs as jobs_of
from dreamjax.comparison.result import Comparison
from dreamjax.console import log
from dreamjax.errors import TryAgain, UserError
from dreamjax.storage import locks, manifest
from dreamjax.training import compile_cache, preemption

IN_USE = "another process works on it; the same command adds it later"  # why a job is missing
FAILURES = (UserError, MemoryError, jax.errors.JaxRuntimeError, FloatingPointError)


@dataclass(frozen=True)
class Timed:
    """Whose accuracy over time is computed, and in which windows."""

    systems: tuple[str, ...] = ()
    windows: Literal["both", "sliding", "growing"] = "both"

    def __post_init__(self) -> None:
        if self.windows not in ("both", *over_time.SPANS):
            raise UserError(f"windows is {self.windows!r}, but it must be both, {' or '.join(over_time.SPANS)}")
        if self.windows != "both" and not self.systems:
            raise UserError(
                f"--windows {self.windows} has no effect without --over-time; add it, or leave out --windows"
            )


def prepare(path: str, corpus: str, stimuli: str, workdir: epath.PathLike) -> str:
    """Prepare a corpus of trials in WORKDIR/data, where that is not done; return the dataset's folder.

    Raise UserError for another corpus than `corpus` (in any spelling of its name), with nothing written.
    """
    from dreamjax.signals.datasets import records
    from dreamjax.signals.preparation import prepare as preparation
    from dreamjax.signals.preparation.inputs import PrepareOptions
    from dreamjax.signals.recordings.corpora.things_meg import is_tree
    from dreamjax.signals.recordings.corpora.trial_corpora import trial_corpus_of

    out = epath.Path(workdir) / run_folder.DATA
    if not (trial_corpus_of([path]) or is_tree(path)):
        raise UserError(
            f"{path} is not a corpus of trials that dreamjax knows by its files; prepare it first (dreamjax prepare), "
            "and give the dataset with --data"
        )
    preparation.prepare([path], str(out), None, PrepareOptions(stimuli=stimuli))
    known = records.load_dataset(out)["corpora"]
    if corpus and _plain(corpus) not in map(_plain, known):
        raise UserError(f"--corpus {corpus}: the files of {path} are those of {', '.join(known)}; leave out --corpus")
    return str(out)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def compare(request: Request, workdir: epath.PathLike, timed: Timed = Timed()) -> Comparison:
    """Do the jobs of a comparison and write its table; jobs that are done already are not done again.

    Several processes may work on one folder: each takes jobs that no other has. A job that fails is named in the table,
    and the others go on. `timed`: whose accuracy over time is computed too.

    Raise UserError where nothing could be done or a system cannot read windows, TryAgain on SIGTERM and Control-C.
    """
    jobs = jobs_of(request)
    further = [*of_ridge(result.CONTROLS, request), *_over_time(timed, request, jobs)]
    run_folder.claim(workdir, request)
    compile_cache.use("auto")
    missing: dict[str, str] = {}
    with preemption.Watch() as watch:
        for job in jobs:
            _try(job, workdir, watch, missing)
        if all(missing.get(job.name) == IN_USE for job in jobs):  # more processes than jobs: there will be a table
            _try(jobs[0], workdir, watch, missing, watch.requested)
        if all(job.name in missing for job in jobs):
            if IN_USE not in missing.values():
                run_folder.release(workdir)
            why = next((one for one in missing.values() if one != IN_USE), IN_USE)
            raise UserError(f"no job of the comparison could be done: {why}")
        for job in further:
            _try(job, workdir, watch, missing)
    done = {job.name for job in (*jobs, *further) if run_folder.result_of(workdir, job) is not None}
    missing = {name: why for name, why in missing.items() if name not in done}  # by another process, meanwhile
    return write(workdir, request, jobs, missing, further)


def _over_time(timed: Timed, request: Request, jobs: Sequence[Job]) -> list[Job]:
    further = []
    for kind in over_time.SPANS if timed.windows == "both" else (timed.windows,):
        for system in dict.fromkeys(timed.systems):
            if system == RIDGE:
                further += of_ridge(result.timed_name(system, kind), request)
            else:
                further += window_models.jobs_of(system, kind, jobs)
    return further


def _try(
    job: Job,
    workdir: epath.PathLike,
    watch: preemption.Watch,
    missing: dict[str, str],
    stop: Callable[[], bool] | None = None,
) -> None:
    """Do a job, or say in `missing` why it is not done; `stop`: wait for a process that works on it, until True."""
    if watch.requested():
        raise TryAgain("the comparison was stopped; the same command continues it")
    missing.pop(job.name, None)
    try:
        _do(job, workdir, stop)
    except locks.Busy:
        missing[job.name] = IN_USE
    except FAILURES as problem:
        if isinstance(problem, TryAgain):
            raise
        missing[job.name] = str(problem).splitlines()[0]
        log.warning("%s failed: %s", job.name, missing[job.name])


def _do(job: Job, workdir: epath.PathLike, stop: Callable[[], bool] | None) -> None:
    if run_folder.result_of(workdir, job) is not None:
        return
    folder = run_folder.folder_of(workdir, job)
    folder.mkdir(parents=True, exist_ok=True)
    with locks.held(folder / "lock", job.name, stop):
        if run_folder.result_of(workdir, job) is None:
            run_folder.write(workdir, job, _way(job)(job))


def _way(job: Job) -> Callable[[Job], Fitted]:
    if job.system == result.CONTROLS:
        return controls.fit
    system, _ = result.timed(job)
    if not system:
        return fitting.fit
    return over_time.fit if system == RIDGE else window_models.fit


def write(
    workdir: epath.PathLike, request: Request, jobs: Sequence[Job], missing: dict[str, str], further: Sequence[Job]
) -> Comparison:
    """Write the table of a comparison as JSON and as a page."""
    import dataclasses

    table = result.collect(workdir, request, jobs, missing, further)
    folder = epath.Path(workdir)
    manifest.write_json(folder / "comparison.json", table.as_json())
    (folder / "comparison.html").write_text(page.page(table, workdir, request, jobs).html())
    files = tuple(str(folder / name) for name in ("comparison.json", "comparison.html"))
    return dataclasses.replace(table, files=files)
