"""A work directory belongs to one config: which runs may continue in it, and which settings may change."""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping

from etils import epath

from dreamjax import config as configs
from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel import processes
from dreamjax.storage import atomic, leases, locks, manifest, presence
from dreamjax.training import checkpoints

# settings that may differ when a run is continued: how long, where, how often; none that changes what a step computes
MAY_CHANGE = (
    r"train\.(steps|microbatches|log_every|eval_every|image_every|workers|profile_start|profile_steps)",
    r"train\.(tensorboard|wandb|compile_cache)",
    r"train\.(mesh|checkpoint|guard)\..*",
    r"data\.(workers|prefetch)",
)
BEFORE_CONFIG = (
    r"data\.json|location\.json|goodput\.json|tokenizer|\..*|.*\.log"  # files that may exist before a run's config.json
)

WRITTEN = ("config.json", "data.json", "location.json", "goodput.json", "metrics.jsonl")
POLL_S = 5.0
VERIFY_S = 3600.0  # for the first process to verify a large checkpoint

Changes = dict[str, tuple[object, object]]  # dotted key → (value before, value now)


def flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return dotted key → value of nested JSON objects."""
    values: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


def changes(before: str, now: str, defaults: str = "{}") -> Changes:
    """Return the changes between two config JSONs.

    `defaults`: JSON of the config's defaults, where it has some. A key that an older version did not have yet then
    counts as its default, which is what that version did; one that this version no longer has cannot have changed.
    """
    a, b, usual = (flat(configs.migrated(json.loads(text))) for text in (before, now, defaults))
    a = {key: value for key, value in usual.items() if key in b} | a
    keys = b.keys() if usual else a.keys() | b.keys()
    return {key: (a.get(key), b.get(key)) for key in sorted(keys) if a.get(key) != b.get(key)}


def effective(changed: Changes) -> Changes:
    """Return the changes without those that affect no result, such as how often an image is logged."""
    return {key: both for key, both in changed.items() if not key.endswith("train.image_every")}


def check(workdir: epath.PathLike, config_json: str, defaults_json: str = "{}") -> Changes:
    """Return what changed since the run of `workdir`, if it has one; see `changes`.

    Raise UserError when the directory holds another config's run, or files that no run wrote.
    """
    workdir = epath.Path(workdir)
    path = workdir / "config.json"
    if presence.exists(workdir) and not presence.is_folder(workdir):
        raise UserError(f"{workdir} is a file; choose another --workdir")
    if not presence.exists(path):
        names = [entry.name for entry in presence.entries(workdir)]
        if foreign := [name for name in names if not re.fullmatch(BEFORE_CONFIG, name)]:
            raise UserError(f"{workdir} holds files that are not a run ({foreign[0]}); choose another --workdir")
        return {}
    try:
        before = manifest.unsealed(json.loads(path.read_text()), path)
        changed = changes(json.dumps(before), config_json, defaults_json)
    except (ValueError, AttributeError) as problem:
        copies = workdir / "checkpoints"
        raise UserError(
            f"{path} is damaged; copy it from a folder of {copies}, or choose another --workdir"
        ) from problem
    if barred := [key for key in changed if not any(re.fullmatch(pattern, key) for pattern in MAY_CHANGE)]:
        listed = "; ".join(f"{key} was {changed[key][0]!r} and is now {changed[key][1]!r}" for key in barred[:4])
        more = f" and {len(barred) - 4} more" if len(barred) > 4 else ""
        raise UserError(f"{workdir} holds a run of another config ({listed}{more}): choose another --workdir")
    return changed


@contextlib.contextmanager
def held(workdir: epath.PathLike) -> Iterator[None]:
    """Lock a work directory, in the first process. Raise locks.Busy in all of them where another run holds the lock."""
    with contextlib.ExitStack() as stack:
        busy = None
        if processes.is_first():
            try:
                until = time.monotonic() + leases.LEASE_S + POLL_S  # the lease of a killed owner has ended by then
                wait = (lambda: time.monotonic() > until) if "://" in str(workdir) else None
                stack.enter_context(locks.held(epath.Path(workdir) / ".lock", str(workdir), wait))
            except locks.Busy as problem:
                busy = str(problem)
        if (busy := processes.agree("lock", busy)) is not None:
            raise locks.Busy(busy)
        if processes.is_first():
            atomic.remove_leftovers(epath.Path(workdir) / "images")
            for name in WRITTEN:  # others may be written by another command
                atomic.remove_leftovers(workdir, name)
        yield


def claim(workdir: epath.PathLike, config_json: str, defaults_json: str = "{}") -> set[str]:
    """Claim `workdir` for this config, or check that it is; return the keys that changed, all of which may.

    Raise UserError as `check`.
    """
    path = epath.Path(workdir) / "config.json"
    changed = check(workdir, config_json, defaults_json)
    for key, (old, new) in changed.items():
        log.info("%s: %s was %r and is now %r", workdir, key, old, new)
    processes.barrier("claim")  # all processes have compared before anything is replaced
    if processes.is_first() and (changed or not presence.exists(path)):
        manifest.write_json(path, json.loads(config_json))
    return set(changed)


def resume_step(path: epath.PathLike, steps: int) -> int | None:
    """Return the newest intact step of a work directory.

    Raise UserError where the run is past `steps` already, and CannotRead where a saved step cannot be read for now:
    training from the beginning would mix two runs.
    """
    newest, refused = None, None
    if processes.is_first():  # it reads and verifies every byte; a different result on another host would split the run
        try:
            newest = checkpoints.newest_intact(epath.Path(path) / "checkpoints")
        except presence.CannotRead as problem:
            refused = str(problem)
    newest, refused = processes.agree("resume", (newest, refused), VERIFY_S)
    if refused is not None:
        raise presence.CannotRead(refused)
    if newest is not None and newest > steps:
        past = f"the run in {path} is at step {newest}, past train.steps = {steps}"
        raise UserError(f"{past}; set train.steps to {newest} or more, or choose another folder")
    return newest
