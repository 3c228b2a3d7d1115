"""Images with captions as a stream of training examples.

    stream = open_stream(ImageConfig("runs/images", resolution=32), "train", seed=0, training=True)
    batch = next(stream.batches(batch_size=64))
    x = scaled(batch["image"])          # on the device, in [-1, 1]

Which image global example number i is follows from (seed, i) alone (`signals.datasets.examples`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int, UInt8

from dreamjax.config import check_seed
from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.signals.datasets import rng
from dreamjax.signals.datasets.examples import Examples, Rows
from dreamjax.storage import image_files
from dreamjax.targets import image_folder
from dreamjax.targets.image_folder import Captioned
from dreamjax.targets.preprocessing import BICUBIC, LANCZOS, Preprocessing

Encode = Callable[[Sequence[str]], Int[np.ndarray, "B T"]]  # such as a `tokens.Tokenizer`
AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)
FILTERS = {"bicubic": BICUBIC, "lanczos": LANCZOS}
THREADS = min(16, environment.cores())  # Pillow decodes without Python's lock


@dataclass(frozen=True)
class ImageConfig:
    """A folder of images, and how each is read."""

    folder: str = ""  # see `image_folder` for its layouts
    resolution: int = 512  # pixels: the shorter edge is resized to it, and the middle square is cut out
    resample: Literal["bicubic", "lanczos"] = "bicubic"  # both antialiased
    flip: float = 0.0  # augmentation: probability of mirroring; 0 where captions say "left" or "right"
    val_share: float = 0.1  # of the images: held out
    split_by: Literal["file", "caption"] = "file"  # caption: images with the same caption are held out together
    shuffle: bool = True
    shuffle_seed: int | None = None  # None: the run's seed
    prefetch: int = 2  # batches that are read ahead
    memory_mib: int = 1024  # decoded images are kept in memory up to this size

    def __post_init__(self) -> None:
        for name in ("resolution", "prefetch"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"data.{name} is {value}, but it must be at least 1")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"data.flip is {self.flip}, but it must be a probability from 0 to 1")
        if not 0 < self.val_share < 1:
            raise ValueError(f"data.val_share is {self.val_share}, but it must be a share between 0 and 1")
        if self.memory_mib < 0:
            raise ValueError(f"data.memory_mib is {self.memory_mib}, but it must be 0 or more")
        check_seed("data.shuffle_seed", self.shuffle_seed)


def load(path: epath.PathLike, resolution: int, resample: str = "bicubic") -> UInt8[np.ndarray, "R R 3"]:
    """Return the middle square of an image's file, in RGB, on white. Raises UserError as `image_files.open_image`."""
    square = Preprocessing(
        edge=resolution, resample=FILTERS[resample], crop=(resolution, resolution), scale=None, mean=None, std=None
    )
    return square([image_files.open_image(path)])[0].astype(np.uint8)


def load_all(
    paths: Sequence[epath.PathLike], resolution: int, resample: str = "bicubic"
) -> UInt8[np.ndarray, "B R R 3"]:
    """Return many images as `load` does, read by threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return np.stack(list(pool.map(lambda path: load(path, resolution, resample), paths)))


def scaled(image: AnyArray) -> AnyArray:
    """Scale 0 … 255 to -1 … 1, float32: what the autoencoder reads."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def unscaled(x: Float[np.ndarray | jax.Array, "*B H W 3"]) -> UInt8[np.ndarray, "*B H W 3"]:
    """Scale -1 … 1 to 0 … 255, rounded and clipped."""
    return np.clip(np.round((np.asarray(x, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


class ImageExamples(Examples):
    """Images as a `training.task.Stream`; `entries` in the order of their names.

    An example: `image` uint8 (R, R, 3), `caption` int32 (equal for equal captions), `tokens` int32 (T,) with an encoder
    of captions, `label` int32 with `classes`, `index` and `weight`.
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
        super().__init__(
            [len(entries)],
            seed=seed,
            endless=training,
            shuffle=training and config.shuffle,
            shuffle_seed=config.shuffle_seed,
        )
        self.config, self.entries, self.training, self.prefetch = config, tuple(entries), training, config.prefetch
        captions = sorted({entry.caption for entry in entries})
        number = {caption: i for i, caption in enumerate(captions)}
        self.caption = np.array([number[entry.caption] for entry in entries], np.int32)
        self.tokens = None if encode is None else np.asarray(encode(captions), np.int32)
        self.label = np.array([classes.index(entry.label) for entry in entries], np.int32) if classes else None
        in_memory = len(entries) * config.resolution**2 * 3 <= config.memory_mib << 20
        self.decoded = self._load(range(len(entries))) if in_memory else None

    def _load(self, keys: Sequence[int]) -> UInt8[np.ndarray, "B R R 3"]:
        return load_all([self.entries[k].path for k in keys], self.config.resolution, self.config.resample)

    def read(self, keys: np.ndarray, index: np.ndarray) -> Rows:
        """Return the images `keys`, mirrored by the draw of the examples `index`."""
        image = self._load(keys.tolist()) if self.decoded is None else self.decoded[keys]
        if self.training and self.config.flip:
            coin = rng.uniform(self.seed, "flip", index, 1)[:, 0] < self.config.flip
            image = np.where(coin[:, None, None, None], image[:, :, ::-1], image)
        out = {"image": image, "caption": self.caption[keys]}
        if self.tokens is not None:
            out["tokens"] = self.tokens[out["caption"]]
        if self.label is not None:
            out["label"] = self.label[keys]
        return out

    def check_batch(self, batch_size: int) -> None:
        """Raise UserError for a training batch that would hold an image twice."""
        if self.training and batch_size > len(self):
            raise UserError(
                f"train.batch_size is {batch_size}, but {self.config.folder} has {len(self)} images to train on; set "
                "a smaller one or give more images"
            )


def split(config: ImageConfig, name: str, *, captions: bool = True) -> tuple[Captioned, ...]:
    """Return the images of split "train" or "val". Raises UserError as `image_folder.listing`, and for an empty one."""
    if not config.folder:
        raise UserError("data.folder is empty; name a folder of images (--config.data.folder=…)")
    if name not in ("train", "val"):
        raise UserError(f"images have the splits train and val, not {name}")
    entries = image_folder.listing(config.folder, captions=captions)
    chosen = tuple(e for e in entries if image_folder.split_of(e, config.val_share, by=config.split_by) == name)
    if not chosen:
        raise UserError(
            f"{config.folder}: none of its {len(entries)} images falls into split {name}; change data.val_share = "
            f"{config.val_share:g} or give more images"
        )
    return chosen


def open_stream(
    config: ImageConfig,
    name: str,
    *,
    seed: int,
    training: bool,
    encode: Encode | None = None,
    captions: bool = True,
    classes: Sequence[str] = (),
) -> ImageExamples:
    """Open the images of a split: endless, shuffled and augmented in training, else each once and in order.

    `encode`: texts → token ids (a `tokens.Tokenizer`). `classes`: the labels, whose numbers are `label`. Raises
    UserError as `split`, and for a damaged image (now where all are kept in memory, else when it is read).
    """
    entries = split(config, name, captions=captions)
    return ImageExamples(config, entries, seed=seed, training=training, encode=encode, classes=classes)


def element(config: ImageConfig, *, tokens: int = 0, label: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
    """Return what `ImageExamples.element` does, without opening a file. `tokens`: of an encoded caption, 0 without."""
    shapes = {"image": (config.resolution, config.resolution, 3), "caption": (), "index": (2,), "weight": ()}
    kinds = {"image": np.uint8, "index": np.uint32, "weight": np.float32}
    shapes |= ({"tokens": (tokens,)} if tokens else {}) | ({"label": ()} if label else {})
    return {name: jax.ShapeDtypeStruct(shape, kinds.get(name, np.int32)) for name, shape in shapes.items()}
