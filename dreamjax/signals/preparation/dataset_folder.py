"""The folder that `prepare` writes: what it may replace, where it is built, how it gets its name.

Whatever stands there stays until the new folder is whole; a second process that wants the same one is refused.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.storage import locks

DATASET = "dataset.json"


def dataset_name(out: str | os.PathLike[str], wanted: str = "") -> str:
    """The dataset's name: as wanted, else made from the folder's. Raises UserError for one that cannot be."""
    if not wanted:
        name = re.sub(r"[^a-z0-9]+", "_", Path(str(out).rstrip("/")).name.lower()).strip("_")
        wanted = name if re.match(r"[a-z]", name) else f"eeg_{name}".rstrip("_")
    return records.valid_name("dataset", wanted)


def places_of(out: str | os.PathLike[str]) -> tuple[epath.Path, Path]:
    """(the dataset folder, where it is built): the same place unless it lies in an object store."""
    final = epath.Path(out)
    if "://" not in str(out):
        return final, Path(out)
    key = hashlib.sha256(str(out).encode()).hexdigest()[:16]
    return final, Path(tempfile.gettempdir()) / f"dreamjax-prepare-{key}" / final.name


def described(out: epath.Path) -> dict[str, Any] | None:
    """dataset.json of a dataset folder; None where there is none."""
    try:
        return json.loads((out / DATASET).read_text())
    except (OSError, ValueError):
        return None


def refuse_to_replace(out: epath.Path, inputs: Sequence[str | os.PathLike[str]]) -> None:
    """Raises UserError where `out` is no dataset of `prepare`'s own, and where an input is it or lies in it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if described(out) is None:
        raise UserError(
            f"{out} exists and is no dataset that `dreamjax prepare` wrote, so --overwrite does not replace it; choose "
            "another --out"
        )
    if "://" not in str(out):
        own = Path(out).resolve()
        for one in inputs:
            if own == (place := Path(one).resolve()) or own in place.parents:
                raise UserError(f"{out} holds the input {one}, which --overwrite would delete; choose another --out")


@contextmanager
def parts_beside(out: Path) -> Iterator[Path]:
    """The folder of parts beside `out`, locked against a second run; kept when the run is interrupted."""
    parts = out.parent / f".{out.name}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    with locks.held(parts / "lock", str(out)):
        for stale in out.parent.glob(f".*.{out.name}.new.*"):  # of a run that was killed while it merged
            shutil.rmtree(stale, ignore_errors=True)
        yield parts


def deliver(fresh: Path, local: Path, final: epath.Path) -> None:
    """Bring a finished folder to its place (`places_of`); until then, what was there stays."""
    if final == epath.Path(local):
        _swap_in(fresh, local)
    else:
        _upload(fresh, final)


def _swap_in(fresh: Path, out: Path) -> None:
    """Give a finished folder its name; what was there goes away last."""
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _upload(fresh: Path, out: epath.Path) -> None:
    """Copy a finished folder into an object store: dataset.json, which makes it a dataset, comes last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / DATASET).unlink(missing_ok=True)
    for stale in [f for f in out.iterdir() if ".array_record-" in f.name]:
        stale.unlink()
    for path in sorted(fresh.iterdir(), key=lambda p: p.name == DATASET):
        epath.Path(path).copy(out / path.name, overwrite=True)
    shutil.rmtree(fresh, ignore_errors=True)
