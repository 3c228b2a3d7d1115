"""The images of THINGS-EEG2: `image_metadata.npy`, which numbers them, and the folders that hold them.

image_set/image_metadata.npy                              {train_img_concepts, train_img_files, test_…}, in order
image_set/training_images/00001_aardvark/aardvark_01b.jpg 1654 concepts of 10
image_set/test_images/00001_aircraft_carrier/….jpg        200 concepts of 1
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from dreamjax.errors import UserError
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.storage.checkpoint_files.pickle_reader import Value
from dreamjax.storage.checkpoint_files.torch_pickle import PickledArray, TorchTensor

METADATA = "image_metadata.npy"
FOLDERS = {"train": ("training_images", "train_images"), "test": ("test_images",)}
WHERE = "https://osf.io/y63gw"


@dataclass(frozen=True)
class ImageList:
    """The images of each split in the order of their numbers, as `concept/file`."""

    source: str
    train: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, split: str, count: int, where: str) -> tuple[str, ...]:
        """Return the images of a split. Raise UserError where there are not `count`."""
        names = self.train if split == "train" else self.test
        if len(names) != count:
            raise UserError(
                f"{where}: it has {count} {split} images and {self.source} names {len(names)}; the files do not belong "
                "together, or one was cut short"
            )
        return names


def find(path: Path, images: str) -> ImageList:
    """Return the list of images for the trials at `path`, next to them or in the folder of images.

    Raise UserError where there is none.
    """
    roots = [*([Path(images), Path(images).parent] if images else []), path, *list(path.absolute().parents)[:2]]
    for root in roots:
        for place in (root / METADATA, root / "image_set" / METADATA):
            if place.is_file():
                return _read(place)
    raise UserError(
        f"{path}: {METADATA} is missing, which names the images; put it next to the sub-XX folders, or into the folder "
        f"of the images that --stimuli names ({WHERE} has it)"
    )


def place_in(folder: str, split: str) -> str:
    """Return the folder of a split's images within a folder of images: one of the published names, or none."""
    return next((name for name in FOLDERS[split] if folder and (Path(folder) / name).is_dir()), "")


def relative(name: str, where: str) -> str:
    """Return the last two parts of an image's path, `concept/file`. Raise UserError for anything else."""
    parts = PurePosixPath(name.replace("\\", "/")).parts[-2:]
    if len(parts) != 2 or ".." in parts or "/" in parts or ":" in name:
        raise UserError(f"{where}: {name[:60]!r} is not the path of an image, such as 00001_aardvark/aardvark_01b.jpg")
    return "/".join(parts)


def dictionary(path: Path) -> dict[str, Value]:
    """Return the dictionary of a file: pickled, saved by NumPy or by torch. Raise UserError for other content."""
    content = torch_files.read(path)
    if isinstance(content, np.ndarray) and content.dtype == object and content.size == 1:
        content = content.reshape(-1)[0]  # np.save makes an array of a dictionary
    if not isinstance(content, dict):
        raise UserError(f"{path}: it holds {type(content).__name__}, not a dictionary; fetch the file again")
    return content


def strings(value: Value, where: str) -> tuple[str, ...]:
    """Return a list or an array of text. Raise UserError for anything else."""
    if isinstance(value, PickledArray):
        value = value.numpy()
    items: Sequence = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise UserError(f"{where}: this is not a list of names; fetch the file again")
    return tuple(str(item) for item in items)


def numbers(value: Value, where: str) -> np.ndarray:
    """Return an array of numbers, as a view of the file where it lies there. Raise UserError for anything else."""
    if isinstance(value, (PickledArray, TorchTensor)):
        value = value.numpy()
    try:
        array = value if isinstance(value, np.ndarray) else np.array(value, np.float64)
    except (TypeError, ValueError) as problem:
        raise UserError(f"{where}: this is not an array of numbers; fetch the file again") from problem
    if array.dtype.kind not in "fiu":
        raise UserError(f"{where}: this is an array of {array.dtype}, not of numbers; fetch the file again")
    return array


def _read(path: Path) -> ImageList:
    content, lists = dictionary(path), {}
    for split in ("train", "test"):
        if missing := [key for key in (f"{split}_img_concepts", f"{split}_img_files") if key not in content]:
            raise UserError(f"{path}: it lacks {missing[0]}; it is not THINGS-EEG2's list of images ({WHERE})")
        concepts, files = (strings(content[f"{split}_img_{name}"], str(path)) for name in ("concepts", "files"))
        if len(concepts) != len(files):
            raise UserError(f"{path}: {len(files)} {split} files and {len(concepts)} concepts; fetch it again")
        lists[split] = tuple(relative(f"{c}/{f}", str(path)) for c, f in zip(concepts, files, strict=True))
    return ImageList(str(path), lists["train"], lists["test"])
