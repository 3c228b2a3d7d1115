"""A folder of images and their captions, in the usual layouts.

metadata.jsonl    a line {"file_name": "a.png", "text": "…"} per image (Hugging Face's imagefolder); "label": its class
metadata.csv      the same, with a header
a.png, a.txt      a text file per image
n01/a.png         a folder per class, without captions (ImageNet's)

Nothing else of an image's file is read: not its date, place or camera.
"""

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import paths, presence

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LINES, TABLE = "metadata.jsonl", "metadata.csv"
CAPTIONS = ("text", "caption")  # the first that exists
LAYOUTS = f"{LINES} or {TABLE} with file_name and text, or NAME.txt for each image"


@dataclass(frozen=True, order=True)
class Captioned:
    """An image and its caption. `name`: path relative to the folder; `label`: its class, "" without."""

    name: str
    caption: str
    path: epath.Path
    label: str = ""


def listing(folder: epath.PathLike, *, captions: bool = True, among: Collection[str] = ()) -> tuple[Captioned, ...]:
    """Return the images of a folder, ordered by name; all exist, none has been opened.

    Without `captions`, missing ones are "". In a layout with a folder per class, only the images `among` are listed if
    any are given: ImageNet has a million more than were shown. Raises UserError for a folder without images or
    captions, for a line that cannot be read, and for images that are named and missing.
    """
    root = paths.reachable(folder)
    if not presence.is_folder(root):
        raise UserError(f"{folder}: no such folder; name one with images and {LAYOUTS}")
    table = next((root / name for name in (LINES, TABLE) if presence.exists(root / name)), None)
    if table is None:
        return _from_files(root, captions, among)
    rows = _from_lines(table, captions) if table.name == LINES else _from_table(table, captions)
    entries = sorted(Captioned(name, caption, root / name, label) for name, caption, label in rows)
    if not entries:
        raise UserError(f"{table} names no image; give file_name and text for each")
    _check_files(root, table, [entry.name for entry in entries])
    return tuple(entries)


def split_of(entry: Captioned, val_share: float, test_share: float = 0.0, by: str = "file") -> str:
    """Return "train", "val" or "test" for an image, by a hash of its name or caption, so it never changes.

    By "caption", images with the same caption are in the same split.
    """
    digest = hashlib.sha256(
        (entry.caption if by == "caption" else entry.name).encode(errors="surrogateescape")
    ).digest()
    number = int.from_bytes(digest[:8], "big")
    return "val" if number < val_share * 2**64 else "test" if number < (val_share + test_share) * 2**64 else "train"


def _from_lines(path: epath.Path, captions: bool) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise UserError(f"{path}, line {number}: not JSON; write one object per line, or remove it") from problem
        if not isinstance(fields, dict):
            raise UserError(f"{path}, line {number}: a JSON {type(fields).__name__}; write one object per line")
        yield _fields(fields, f"{path}, line {number}", captions)


def _from_table(path: epath.Path, captions: bool) -> Iterator[tuple[str, str, str]]:
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    try:
        for number, fields in enumerate(csv.DictReader(io.StringIO(text, newline="")), 2):
            yield _fields(fields, f"{path}, row {number}", captions)
    except csv.Error as problem:
        raise UserError(f"{path}: not a table of comma-separated values ({problem}); write it again") from problem


def _fields(fields: Mapping[str, object], where: str, captions: bool) -> tuple[str, str, str]:
    """Return (name, caption, label). A name that leads out of the folder is refused."""
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
        raise UserError(f"{where}: file_name is {name!r}, but it must stay within the folder")
    label = fields.get("label")
    return str(path), caption.strip(), "" if label is None else str(label).strip()


def _check_files(root: epath.Path, table: epath.Path, names: Sequence[str]) -> None:
    """Raise UserError for missing files. One listing per folder: one request per image would take minutes."""
    within = {str(PurePosixPath(name).parent) for name in names}
    existing = {
        str(PurePosixPath(folder) / entry.name)
        for folder in within
        if presence.is_folder(root / folder)
        for entry in (root / folder).iterdir()
    }
    if missing := [name for name in names if name not in existing]:
        more = f" and {len(missing) - 3} others" if len(missing) > 3 else ""
        raise UserError(f"{table} names images that do not exist: {', '.join(missing[:3])}{more}")


def _from_files(root: epath.Path, captions: bool, among: Collection[str]) -> tuple[Captioned, ...]:
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    images = [entry for entry in entries if _is_image(entry.name)]
    if not images and not captions and (classified := _from_classes(entries, among)):
        return classified
    if not images:
        raise UserError(f"{root} holds no image ({', '.join(SUFFIXES)}) and no {LINES}; name another folder")
    texts = {PurePosixPath(entry.name).stem: entry for entry in entries if entry.name.lower().endswith(".txt")}
    without = [entry.name for entry in images if PurePosixPath(entry.name).stem not in texts]
    if captions and without:
        some = f"{without[0]} has" if len(without) < len(images) else "its images have"
        raise UserError(f"{root}: {some} no caption; give {LAYOUTS}")
    captioned = []
    for entry in images:
        text = texts.get(PurePosixPath(entry.name).stem)
        caption = "" if text is None else text.read_bytes().decode("utf-8-sig", errors="replace").strip()
        captioned.append(Captioned(entry.name, caption, entry))
    return tuple(captioned)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _from_classes(entries: Sequence[epath.Path], among: Collection[str]) -> tuple[Captioned, ...]:
    """Return the images of folders whose names are the classes."""
    among = among if all("/" in name for name in among) else ()  # a bare file name may be in any folder
    wanted = {PurePosixPath(name).parent.name for name in among}
    folders = [entry for entry in entries if (not among or entry.name in wanted) and presence.is_folder(entry)]
    images = (
        Captioned(f"{folder.name}/{file.name}", "", file, folder.name)
        for folder in folders
        for file in folder.iterdir()
        if _is_image(file.name)
    )
    return tuple(sorted(entry for entry in images if not among or entry.name in among))
