"""The folder of a comparison, and its jobs, each of which is done once.

WORKDIR/data/                       the dataset of a corpus that was prepared for it
WORKDIR/compare.json                what is compared; another comparison is refused
WORKDIR/jobs/NAME/seed-N/           a run as `dreamjax train` leaves it: a step is an epoch (`--step N`)
WORKDIR/jobs/NAME/ranks.npz         rank of the image that was seen, by checkpoint, seed and trial
WORKDIR/jobs/NAME/job.json          fingerprint, parameters, epochs; written last
WORKDIR/jobs/controls-FOLD, over-time-SYSTEM-KIND-FOLD/   likewise, without runs
WORKDIR/comparison.json, .html      the table
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from dreamjax import config as configs
from dreamjax.comparison import protocols
from dreamjax.comparison.fitting import Fitted
from dreamjax.comparison.jobs import Job, Request
from dreamjax.errors import UserError
from dreamjax.metrics.retrieval import Ranks
from dreamjax.signals.datasets import records
from dreamjax.storage import atomic, manifest, presence, sniffing
from dreamjax.systems import registry
from dreamjax.training import checkpoints

DATA = "data"  # folder of a corpus that was prepared for the comparison


def claim(workdir: epath.PathLike, request: Request) -> None:
    """Make the folder that of a comparison. Raise UserError where it holds another one, or something else."""
    folder = epath.Path(workdir)
    file, now = folder / "compare.json", request.identity()
    if presence.exists(file):
        stored = sniffing.read_json(file, "choose another --workdir")
        if different := sorted(key for key in {*now, *stored} if stored.get(key) != now.get(key)):
            raise UserError(f"{folder} holds a comparison with other {', '.join(different)}; choose another --workdir")
        return
    others = [one.name for one in presence.entries(folder)] if presence.exists(folder) else []
    if any(not name.startswith(".") and name != DATA for name in others):
        raise UserError(f"{folder} holds something else than a comparison (no compare.json); choose another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write_json(file, now)


def release(workdir: epath.PathLike) -> None:
    """Let the folder be that of another comparison, unless a job of this one is done."""
    jobs = epath.Path(workdir) / "jobs"
    folders = list(presence.entries(jobs)) if presence.exists(jobs) else []
    if not any(presence.exists(one / "job.json") for one in folders):
        (epath.Path(workdir) / "compare.json").unlink(missing_ok=True)
        if folders:
            jobs.rmtree()


def folder_of(workdir: epath.PathLike, job: Job) -> epath.Path:
    return epath.Path(workdir) / "jobs" / job.name


def result_of(workdir: epath.PathLike, job: Job) -> dict[str, Any] | None:
    """Return what is stored of a job; None where it is not done. Raise UserError for other settings or trials."""
    file = folder_of(workdir, job) / "job.json"
    if not presence.exists(file):
        return None
    stored = sniffing.read_json(file, "delete its folder, and the job is done again")
    if stored.get("fingerprint") != job.fingerprint:
        raise UserError(f"{file.parent} was done with other settings; choose another --workdir, or delete that folder")
    if stored.get("data", now := _data_of(job)) != now:
        raise UserError(
            f"{file.parent} was done with other trials than those that {', '.join(job.configs[0].data.path)} has now; "
            "choose another --workdir, or delete that folder"
        )
    return stored


def _data_of(job: Job) -> str:
    """Return a hash of the trials that a job reads."""
    shards = [records.load_dataset(path)["shards"] for path in job.configs[0].data.path]
    return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()[:16]


def write(workdir: epath.PathLike, job: Job, fitted: Fitted) -> None:
    """Keep a job: its runs, its ranks, and last the file that says that it is done."""
    folder = folder_of(workdir, job)
    for number, config in enumerate(job.configs):
        task: Any = registry.build(config)
        content = configs.to_json(task.filled())  # so that the run opens without the data
        run = folder / f"seed-{config.seed}"
        written: set[int] = set()
        for checkpoint, each in fitted.params.items():
            epoch = fitted.epochs.get(checkpoint, [0])[min(number, len(each) - 1)]
            if checkpoint in fitted.epochs and epoch not in written:
                checkpoints.save_params_as_run(run, content, each[number], step=epoch)
                written.add(epoch)
    arrays: dict[str, np.ndarray] = {"image": fitted.image, "person": fitted.person, "repeats": fitted.repeats}
    arrays |= {name: x for name, x in fitted.further.items() if x is not None}
    for checkpoint, each_seed in fitted.ranks.items():
        arrays[f"{checkpoint}/above"] = np.stack([one.above for one in each_seed])
        arrays[f"{checkpoint}/equal"] = np.stack([one.equal for one in each_seed])
    arrays |= {f"curve/{name}": curve for name, curve in fitted.curves.items()}
    with atomic.new_file(folder / "ranks.npz") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    manifest.write_json(
        folder / "job.json",
        {
            "fingerprint": job.fingerprint,
            "data": _data_of(job),
            "system": job.system,
            "fold": job.fold,
            "validation": job.configs[0].data.validation,
            "seeds": [config.seed for config in job.configs],
            "gallery": fitted.gallery,
            "counted": protocols.counted(tuple(fitted.params)),
            "galleries": dict(fitted.galleries),
            "closed_form": fitted.closed_form,
            "epochs": {name: list(each) for name, each in fitted.epochs.items()},
            "parameters": dict(fitted.parameters),
            "seconds": round(fitted.seconds, 2),
            "notes": dict(fitted.notes),
        },
    )


def ranks_of(workdir: epath.PathLike, job: Job) -> tuple[dict[str, list[Ranks]], Mapping[str, np.ndarray]]:
    """Return the ranks of a job by checkpoint and seed, and the other arrays. Raise UserError for a damaged file."""
    path = folder_of(workdir, job) / "ranks.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError) as problem:
        raise UserError(f"{path} cannot be read ({problem}); delete its folder, and the job is done again") from problem
    names = [name.removesuffix("/above") for name in arrays if name.endswith("/above")]
    ranks = {
        name: [Ranks(*pair) for pair in zip(arrays[f"{name}/above"], arrays[f"{name}/equal"], strict=True)]
        for name in names
    }
    return ranks, arrays
