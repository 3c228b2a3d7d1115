"""A folder of images and their captions, in the layouts that are usual.

metadata.jsonl    a line {"file_name": "a.png", "text": "…"} an image (Hugging Face's imagefolder); "label": its class
metadata.csv      the same, with a header
a.png, a.txt      a text beside each image
n01/a.png         a folder for each class, without captions (ImageNet's)

Nothing else of an image's file is kept: not its date, place or camera.
"""

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import paths

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LINES, TABLE = "metadata.jsonl", "metadata.csv"
CAPTIONS = ("text", "caption")  # the field, whichever there is
LAYOUTS = f"{LINES} or {TABLE} with file_name and text, or NAME.txt beside each image"


@dataclass(frozen=True, order=True)
class Captioned:
    """`name` is the path relative to the folder; `label` its class, "" without."""

    name: str
    caption: str
    path: epath.Path
    label: str = ""


def listing(folder: epath.PathLike, *, captions: bool = True, among: Collection[str] = ()) -> tuple[Captioned, ...]:
    """The images of a folder, ordered by name; each is there, none has been opened.

    Without `captions` those may be missing, and are "" then. Of a folder for each class, only the images `among` are
    listed where any are named: ImageNet has a million more than were shown. Raises UserError for a folder without
    images, without captions, with a line that cannot be read, and for images that are named and missing.
    """
    root = paths.reachable(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: no such folder; name one with images and {LAYOUTS}")
    table = next((root / name for name in (LINES, TABLE) if (root / name).exists()), None)
    if table is None:
        return _beside(root, captions, among)
    rows = _of_lines(table, captions) if table.name == LINES else _of_table(table, captions)
    found = sorted(Captioned(name, caption, root / name, label) for name, caption, label in rows)
    if not found:
        raise UserError(f"{table} names no image; it takes file_name and text for each")
    _check_there(root, table, [entry.name for entry in found])
    return tuple(found)


def split_of(entry: Captioned, val_share: float, test_share: float = 0.0, by: str = "file") -> str:
    """Whether an image is in "train", "val" or "test": by a hash of its name or of its caption, so for good.

    By "caption", equal captions are in the same split: what is held out was never described in training.
    """
    digest = hashlib.sha256((entry.caption if by == "caption" else entry.name).encode()).digest()
    place = int.from_bytes(digest[:8], "big")
    return "val" if place < val_share * 2**64 else "test" if place < (val_share + test_share) * 2**64 else "train"


# ---------------------------------------------------------------------------------------------------------- the layouts
def _of_lines(path: epath.Path, captions: bool) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise UserError(
                f"{path}, line {number}: this is no JSON; write one object a line, or remove it"
            ) from problem
        if not isinstance(fields, dict):
            raise UserError(f"{path}, line {number}: this is a JSON {type(fields).__name__}; write one object a line")
        yield _fields(fields, f"{path}, line {number}", captions)


def _of_table(path: epath.Path, captions: bool) -> Iterator[tuple[str, str, str]]:
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    try:
        for number, fields in enumerate(csv.DictReader(io.StringIO(text, newline="")), 2):
            yield _fields(fields, f"{path}, row {number}", captions)
    except csv.Error as problem:
        raise UserError(f"{path}: this is no table of comma-separated values ({problem}); write it anew") from problem


def _fields(fields: Mapping[Any, Any], where: str, captions: bool) -> tuple[str, str, str]:
    """(name, caption, label). A name that leads out of the folder is refused: such files are not the user's to read."""
    name = fields.get("file_name")
    caption = next((fields[key] for key in CAPTIONS if key in fields), None)
    if not isinstance(name, str) or not name:
        raise UserError(f"{where} has no file_name; name the image, relative to the folder")
    if not isinstance(caption, str):
        if captions:
            raise UserError(f"{where} has no caption; write it as text")
        caption = ""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "://" in name:
        raise UserError(f"{where}: file_name is {name!r}, but it stays within the folder")
    label = fields.get("label")
    return str(path), caption.strip(), "" if label is None else str(label).strip()


def _check_there(root: epath.Path, table: epath.Path, names: Sequence[str]) -> None:
    """One listing for each folder: asking an object store for every image would take minutes."""
    within = {str(PurePosixPath(name).parent) for name in names}
    there = {
        str(PurePosixPath(folder) / entry.name)
        for folder in within
        if (root / folder).is_dir()
        for entry in (root / folder).iterdir()
    }
    if missing := [name for name in names if name not in there]:
        more = f" and {len(missing) - 3} others" if len(missing) > 3 else ""
        raise UserError(f"{table} names images that are not there: {', '.join(missing[:3])}{more}")


def _beside(root: epath.Path, captions: bool, among: Collection[str] = ()) -> tuple[Captioned, ...]:
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    images = [entry for entry in entries if _is_image(entry.name)]
    if not images and not captions and (found := _by_class(entries, among)):
        return found
    if not images:
        raise UserError(f"{root} holds no image ({', '.join(SUFFIXES)}) and no {LINES}; name a folder that does")
    texts = {PurePosixPath(entry.name).stem: entry for entry in entries if entry.name.lower().endswith(".txt")}
    without = [entry.name for entry in images if PurePosixPath(entry.name).stem not in texts]
    if captions and without:
        some = f"{without[0]} has" if len(without) < len(images) else "its images have"
        raise UserError(f"{root}: {some} no caption; give {LAYOUTS}")
    return tuple(Captioned(entry.name, _text(texts.get(PurePosixPath(entry.name).stem)), entry) for entry in images)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _by_class(entries: Sequence[epath.Path], among: Collection[str]) -> tuple[Captioned, ...]:
    """The images in folders side by side, whose names are the classes."""
    among = among if all("/" in name for name in among) else ()  # a bare file name may lie in any folder
    wanted = {PurePosixPath(name).parent.name for name in among}
    folders = [entry for entry in entries if (not among or entry.name in wanted) and entry.is_dir()]
    found = (
        Captioned(f"{folder.name}/{file.name}", "", file, folder.name)
        for folder in folders
        for file in folder.iterdir()
        if _is_image(file.name)
    )
    return tuple(sorted(entry for entry in found if not among or entry.name in among))


def _text(path: epath.Path | None) -> str:
    return "" if path is None else path.read_bytes().decode("utf-8-sig", errors="replace").strip()
