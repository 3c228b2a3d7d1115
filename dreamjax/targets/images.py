"""Images with captions as a stream of training examples.

    stream = open_stream(ImageConfig("runs/images", resolution=32), "train", seed=0, training=True)
    batch = next(stream.batches(start=0, batch_size=64))
    x = scaled(batch["image"])          # on the device, in [-1, 1]

Which image global example number i is follows from (seed, i) alone, as for `signals.datasets.pipeline`.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int, UInt8

from dreamjax.config import check_seed
from dreamjax.errors import UserError, missing_package
from dreamjax.signals.datasets import mixture, rng
from dreamjax.signals.datasets.read_ahead import IndexedStream, index_and_weight
from dreamjax.targets import image_folder
from dreamjax.targets.image_folder import Captioned
from dreamjax.targets.preprocessing import BICUBIC, LANCZOS, Preprocessing

Encode = Callable[[Sequence[str]], Int[np.ndarray, "B T"]]  # a `tokens.Tokenizer`, say
FILTERS = {"bicubic": BICUBIC, "lanczos": LANCZOS}
THREADS = min(16, os.cpu_count() or 1)  # Pillow decodes without Python's lock


@dataclass(frozen=True)
class ImageConfig:
    """A folder of images, and what is made of each."""

    folder: str = ""  # see `image_folder` for its layouts
    resolution: int = 512  # pixels: the shorter edge becomes so long, and the middle is cut out
    resample: Literal["bicubic", "lanczos"] = "bicubic"  # both without aliasing
    flip: float = 0.0  # augmentation: probability of left for right; captions that say "left" forbid it
    val_share: float = 0.1  # of the images: held out
    split_by: Literal["file", "caption"] = "file"  # caption: images of one caption are held out together
    shuffle: bool = True
    shuffle_seed: int | None = None  # None: the run's seed
    prefetch: int = 2  # batches that are read ahead
    memory_mib: int = 1024  # decoded images are kept where they need no more than this

    def __post_init__(self) -> None:
        for name in ("resolution", "prefetch"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"data.{name} is {value}, but it must be at least 1")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"data.flip is {self.flip}, but it is a probability from 0 to 1")
        if not 0 < self.val_share < 1:
            raise ValueError(f"data.val_share is {self.val_share}, but it is a share between 0 and 1")
        if self.memory_mib < 0:
            raise ValueError(f"data.memory_mib is {self.memory_mib}, but it must be 0 or more")
        check_seed("data.shuffle_seed", self.shuffle_seed)


# -------------------------------------------------------------------------------------------------------- one image
def load_whole(path: epath.PathLike) -> Any:
    """An image's file as Pillow's image, upright (EXIF). Raises UserError, by name, where damaged."""
    pil, operations = _pillow()
    try:
        with epath.Path(path).open("rb") as stream, pil.open(stream) as opened:
            upright = operations.exif_transpose(opened)
            upright.load()
    except Exception as problem:  # Pillow's decoders raise whatever a damaged file makes them raise
        raise UserError(f"{path}: this is no image, or a damaged one; write it anew or remove it") from problem
    return upright


def load(path: epath.PathLike, resolution: int, resample: str = "bicubic") -> UInt8[np.ndarray, "R R 3"]:
    """The middle of an image's file, in RGB, on white. Raises UserError, by name, where damaged."""
    shape = Preprocessing(
        edge=resolution, resample=FILTERS[resample], crop=(resolution, resolution), scale=None, mean=None, std=None
    )
    return shape([load_whole(path)])[0].astype(np.uint8)


def load_all(
    paths: Sequence[epath.PathLike], resolution: int, resample: str = "bicubic"
) -> UInt8[np.ndarray, "B R R 3"]:
    """`load` of many, by threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return np.stack(list(pool.map(lambda path: load(path, resolution, resample), paths)))


def scaled(image: Any) -> Float[Any, "*B H W 3"]:
    """0 … 255 → -1 … 1, float32: what the autoencoder reads. For arrays of NumPy and of JAX."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def unscaled(x: Any) -> UInt8[np.ndarray, "*B H W 3"]:
    """-1 … 1 → 0 … 255, rounded and clipped."""
    return np.clip(np.round((np.asarray(x, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as e:
        raise missing_package("pillow", "data", "reading images") from e
    return Image, ImageOps


# --------------------------------------------------------------------------------------------------------- the stream
class _Examples:
    """Global example indices → rows of a batch."""

    def __init__(
        self,
        config: ImageConfig,
        entries: Sequence[Captioned],
        *,
        seed: int,
        training: bool,
        encode: Encode | None,
        classes: Sequence[str],
    ):
        self.config, self.entries, self.seed, self.training = config, entries, seed, training
        captions = sorted({entry.caption for entry in entries})
        number = {caption: i for i, caption in enumerate(captions)}
        self.caption = np.array([number[entry.caption] for entry in entries], np.int32)
        self.tokens = None if encode is None else np.asarray(encode(captions), np.int32)
        self.label = np.array([classes.index(entry.label) for entry in entries], np.int32) if classes else None
        self.kept: np.ndarray | None = None
        if len(entries) * config.resolution**2 * 3 <= config.memory_mib << 20:
            self.kept = self._read(range(len(entries)))

    def _read(self, keys: Sequence[int]) -> UInt8[np.ndarray, "B R R 3"]:
        if self.kept is not None:
            return self.kept[np.asarray(keys)]
        return load_all([self.entries[k].path for k in keys], self.config.resolution, self.config.resample)

    @cached_property
    def order(self) -> Any:
        """Global example index → image; see `mixture.order`."""
        config, sizes = self.config, [len(self.entries)]
        if not self.training:
            return mixture.order(sizes, (), seed=0, shuffle=False, repeat=False)
        seed = self.seed if config.shuffle_seed is None else config.shuffle_seed
        return mixture.order(sizes, (), seed=seed, shuffle=config.shuffle, repeat=True)

    def __len__(self) -> int:
        return len(self.order)

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The examples `index` (uint64) as arrays with a leading axis; beyond the end, the last one with weight 0."""
        last = len(self.order) - 1
        keys = [int(self.order[min(int(i), last)]) for i in index]
        image = self._read(keys)
        if self.training and self.config.flip:
            coin = rng.uniform(self.seed, "flip", index, 1)[:, 0] < self.config.flip
            image = np.where(coin[:, None, None, None], image[:, :, ::-1], image)
        out = {"image": image, "caption": self.caption[keys]}
        if self.tokens is not None:
            out["tokens"] = self.tokens[out["caption"]]
        if self.label is not None:
            out["label"] = self.label[keys]
        return out | index_and_weight(index, len(self.order))


class ImageStream(IndexedStream):
    """A `training.task.Stream` over the images of one split; `entries` in the order of their names.

    An example: `image` uint8 (R, R, 3), `caption` int32 (equal for equal captions), `tokens` int32 (T,) where there
    is an encoder of captions, `label` int32 where classes are told, `index` and `weight`.
    """

    def __init__(
        self,
        config: ImageConfig,
        entries: Sequence[Captioned],
        *,
        seed: int,
        training: bool,
        encode: Encode | None = None,
        classes: Sequence[str] = (),
    ):
        self.config, self.entries, self.training = config, tuple(entries), training
        self.prefetch = config.prefetch
        self.examples = _Examples(config, self.entries, seed=seed, training=training, encode=encode, classes=classes)

    def __len__(self) -> int:
        """Images in one pass over the split."""
        return len(self.entries)

    def element(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of one example, by name; without the batch axis."""
        found = self.examples.rows(np.zeros(1, np.uint64))
        return {name: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype) for name, rows in found.items()}

    def check_batch(self, batch_size: int) -> None:
        """Raises UserError for a training batch that would hold an image twice."""
        if self.training and batch_size > len(self):
            raise UserError(
                f"train.batch_size is {batch_size}, but {self.config.folder} has {len(self)} images to train on; set "
                "a smaller one or give more images"
            )


def split(config: ImageConfig, name: str, *, captions: bool = True) -> tuple[Captioned, ...]:
    """The images of split "train" or "val". Raises UserError as `image_folder.listing`, and for an empty split."""
    if not config.folder:
        raise UserError("data.folder is empty; name a folder of images (--config.data.folder=…)")
    if name not in ("train", "val"):
        raise UserError(f"images have the splits train and val, not {name}")
    everything = image_folder.listing(config.folder, captions=captions)
    found = tuple(e for e in everything if image_folder.split_of(e, config.val_share, by=config.split_by) == name)
    if not found:
        raise UserError(
            f"{config.folder}: none of its {len(everything)} images falls into split {name}; change data.val_share = "
            f"{config.val_share:g} or give more images"
        )
    return found


def open_stream(
    config: ImageConfig,
    name: str,
    *,
    seed: int,
    training: bool,
    encode: Encode | None = None,
    captions: bool = True,
    classes: Sequence[str] = (),
) -> ImageStream:
    """The images of a split: endless, shuffled and augmented in training, else each once and in order.

    `encode`: texts → token ids (a `tokens.Tokenizer`). `classes`: the labels whose numbers are wanted. Raises UserError
    as `split`, and for an image that is damaged (now where all are kept in memory, else when it is read).
    """
    entries = split(config, name, captions=captions)
    return ImageStream(config, entries, seed=seed, training=training, encode=encode, classes=classes)


def element(config: ImageConfig, *, tokens: int = 0, label: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
    """Return what `ImageStream.element` is, without opening a file. `tokens`: of an encoded caption, 0 without."""
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((config.resolution, config.resolution, 3), np.uint8),
        "caption": ((), np.int32),
        "index": ((2,), np.uint32),
        "weight": ((), np.float32),
    }
    if tokens:
        shapes["tokens"] = ((tokens,), np.int32)
    if label:
        shapes["label"] = ((), np.int32)
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
