"""Compare retrieval systems: do every job that is not done yet, then make the table."""

from collections.abc import Callable, Sequence

import jax
from etils import epath

from dreamjax.comparison import controls, fitting, over_time, page, result, run_folder
from dreamjax.comparison.jobs import Job, Request, of_ridge
from dreamjax.comparison.jobs import jobs as jobs_of
from dreamjax.comparison.result import Comparison
from dreamjax.console import log
from dreamjax.errors import TryAgain, UserError
from dreamjax.storage import locks, manifest
from dreamjax.training import compile_cache, preemption

WAYS = {result.CONTROLS: controls.fit, result.OVER_TIME: over_time.fit}  # jobs that are not those of a system
IN_USE = "another process works on it; the same command adds it later"  # why a job is missing
FAILURES = (UserError, MemoryError, jax.errors.JaxRuntimeError, FloatingPointError)


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


def compare(request: Request, workdir: epath.PathLike, timed: bool = False) -> Comparison:
    """Do the jobs of a comparison and write its table; jobs that are done already are not done again.

    Several processes may work on one folder: each takes jobs that no other has. A job that fails is named in the table,
    and the others go on. `timed`: also accuracy over time.

    Raise UserError where nothing could be done, TryAgain on SIGTERM and Control-C.
    """
    jobs = jobs_of(request)
    run_folder.claim(workdir, request)
    compile_cache.use("auto")
    further = of_ridge(result.CONTROLS, request)
    further += of_ridge(result.OVER_TIME, request) if timed else []
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
            run_folder.write(workdir, job, WAYS.get(job.system, fitting.fit)(job))


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
