"""The folder that `prepare` writes: what it may replace, where it is built, how it gets its name.

What is there stays until the new folder is whole; a second process that writes the same one is refused.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.storage import locks
from dreamjax.typing import JsonDict

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


def read_description(out: epath.Path) -> JsonDict | None:
    """dataset.json of a dataset folder; None where there is none."""
    try:
        return json.loads((out / DATASET).read_text())
    except (OSError, ValueError):
        return None


def finished_dataset(out: epath.Path) -> JsonDict | None:
    """dataset.json where `out` is a finished dataset, None where it is free. Raises UserError for any other folder."""
    if _is_free(out):
        return None
    if (dataset := read_description(out)) is None:
        raise UserError(f"{out} exists and is not a dataset that `dreamjax prepare` wrote; choose another --out")
    return dataset


def _is_free(out: epath.Path) -> bool:
    return not out.exists() or (out.is_dir() and not any(out.iterdir()))


def refuse_to_replace(out: epath.Path, inputs: Sequence[str | os.PathLike[str]]) -> None:
    """Raise UserError where `out` is not a dataset that `prepare` wrote, and where an input is it or lies in it."""
    if _is_free(out):
        return
    if read_description(out) is None:
        raise UserError(
            f"{out} exists and is not a dataset that `dreamjax prepare` wrote, so --overwrite does not replace it; "
            "choose another --out"
        )
    if "://" not in str(out):
        folder = Path(out).resolve()
        for path in inputs:
            if folder == (place := Path(path).resolve()) or folder in place.parents:
                raise UserError(f"{out} holds the input {path}, which --overwrite would delete; choose another --out")


def refuse_key_inside(key_file: str, out: str | os.PathLike[str]) -> None:
    """Raise UserError where the key of the pseudonyms would lie in the dataset's folder and be passed on with it."""
    folder = _whole_path(out)
    parts = folder.parent / f".{folder.name}.parts"
    if key_file and {folder, parts} & {_whole_path(key_file), *_whole_path(key_file).parents}:
        raise UserError(
            f"--key-file {key_file} lies in the output; keep it away from the dataset, in a folder of its own"
        )


def _whole_path(path: str | os.PathLike[str]) -> PurePath:
    return PurePosixPath(str(path)) if "://" in str(path) else Path(path).resolve()


def json_lines(lines: Iterable[Mapping[str, Any]]) -> str:
    """JSON, one object a line."""
    return "".join(f"{json.dumps(line)}\n" for line in lines)


@contextmanager
def parts_folder(out: Path) -> Iterator[Path]:
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
