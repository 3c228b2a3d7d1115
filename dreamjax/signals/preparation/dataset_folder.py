"""The folder that `prepare` writes: what it may replace, where it is built, how it gets its name.

An existing folder stays until the new one is complete; a second process that writes the same one is refused.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.storage import atomic, locks, manifest, paths, presence, replacing
from dreamjax.typing import JsonDict

DATASET = "dataset.json"
UNFINISHED = ".unfinished"  # in an object store, where a folder cannot be replaced at once


def dataset_name(out: str | os.PathLike[str], wanted: str = "") -> str:
    """Return the dataset's name: the given one, else the folder's. Raise UserError for an invalid one."""
    if not wanted:
        name = re.sub(r"[^a-z0-9]+", "_", Path(str(out).rstrip("/")).name.lower()).strip("_")
        wanted = name if re.match(r"[a-z]", name) else f"eeg_{name}".rstrip("_")
    return records.valid_name("dataset", wanted)


def places_of(out: str | os.PathLike[str]) -> tuple[epath.Path, Path]:
    """Return (the dataset folder, where it is built): the same path except for an object store."""
    final = epath.Path(out)
    if "://" not in str(out):
        return final, Path(out)
    key = hashlib.sha256(str(out).encode()).hexdigest()[:16]
    return final, paths.private_folder(f"{tempfile.gettempdir()}/dreamjax-prepare-{key}") / final.name


def existing(out: epath.Path, inputs: Sequence[str] | None = None) -> JsonDict | None:
    """Return the dataset.json in `out`; None where `out` is free.

    Raise UserError for a folder that `prepare` did not write; and with `inputs`, given where `out` is to be
    overwritten, where one of them is `out` or lies in it.
    """
    if not presence.exists(out) or (presence.is_folder(out) and not presence.entries(out)):
        return None
    try:
        with presence.reading(out / DATASET):
            dataset = manifest.unsealed(json.loads((out / DATASET).read_text()), out / DATASET)
    except (OSError, ValueError):
        if presence.exists(out / UNFINISHED):
            return None
        kept = "" if inputs is None else ", so --overwrite does not replace it"
        raise UserError(
            f"{out} exists and is not a dataset that `dreamjax prepare` wrote{kept}; choose another --out"
        ) from None
    folder = Path(out).resolve()
    for path in inputs or () if "://" not in str(out) else ():
        if folder in ((place := Path(path).resolve()), *place.parents):
            raise UserError(f"{out} holds the input {path}, which --overwrite would delete; choose another --out")
    return dataset


def refuse_key_inside(key_file: str, out: str | os.PathLike[str]) -> None:
    """Raise UserError where the key of the pseudonyms would lie in the dataset's folder and be passed on with it."""

    def whole(path: str | os.PathLike[str]) -> PurePath:
        return PurePosixPath(str(path)) if "://" in str(path) else Path(path).resolve()

    folder = whole(out)
    parts = folder.parent / f".{folder.name}.parts"
    if key_file and {folder, parts} & {whole(key_file), *whole(key_file).parents}:
        raise UserError(f"--key-file {key_file} is in the output; keep it away from the dataset, in a separate folder")


def json_lines(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return JSON with one object per line."""
    return "".join(f"{json.dumps(line)}\n" for line in lines)


@contextmanager
def parts_folder(final: epath.Path, out: Path) -> Iterator[Path]:
    """Yield the folder of parts next to `out`; it is kept when the run is interrupted.

    The dataset folder `final` is locked meanwhile.
    """
    parts = out.parent / f".{out.name}.parts"
    with locks.output(final):
        if presence.exists(out):
            replacing.remove_leftovers(out)
        atomic.remove_leftovers(
            out.parent, replacing.fresh_folder(out).name
        )  # of a process that was killed while it merged
        parts.mkdir(parents=True, exist_ok=True)
        try:
            yield parts
        finally:
            with suppress(OSError):  # not empty
                parts.rmdir()


@contextmanager
def replaced(out: epath.Path, local: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `out` once it is complete, built at `local` (`places_of`)."""
    fresh = replacing.fresh_folder(local)
    shutil.rmtree(fresh, ignore_errors=True)
    with atomic.new_folder(fresh) as building:
        yield Path(building)
    if out == epath.Path(local):
        replacing.replace(local)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED).write_text("dreamjax prepare is writing this dataset, or was killed meanwhile")
    (out / DATASET).unlink(missing_ok=True)
    for stale in [f for f in out.iterdir() if ".array_record-" in f.name]:
        stale.unlink()
    for path in sorted(fresh.iterdir(), key=lambda p: p.name == DATASET):  # which makes it a dataset
        epath.Path(path).copy(out / path.name, overwrite=True)
    (out / UNFINISHED).unlink()
    shutil.rmtree(fresh, ignore_errors=True)
