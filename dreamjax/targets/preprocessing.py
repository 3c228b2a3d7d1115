"""From images to the pixel values of a network, as its preprocessor_config.json says.

Resize (in 8 bits, by Pillow), crop from the middle, rescale, normalise: bit-equal to the PIL backend of transformers'
CLIPImageProcessor, BitImageProcessor (DINOv2) and ViTImageProcessor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from dreamjax.errors import UserError
from dreamjax.storage.image_files import pillow
from dreamjax.weights import config_json
from dreamjax.weights.config_json import ANY

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)  # Pillow's numbers, which the files use
MAX_SIDE = 16_384  # pixels of an image; a config may not ask for more memory

# defaults by the class of the processor; older files name a "feature extractor"
_CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": BICUBIC,
    "do_center_crop": True,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
_VIT = {
    "size": {"height": 224, "width": 224},
    "crop_size": None,
    "resample": BILINEAR,
    "do_center_crop": False,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}
DEFAULTS: dict[str, dict[str, Any]] = {"CLIP": _CLIP, "Bit": _CLIP, "ViT": _VIT}
_OPEN_CLIP = {"mean": CLIP_MEAN, "std": CLIP_STD}
ALWAYS = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


@dataclass(frozen=True)
class Preprocessing:
    """Steps from images to pixel values; None: no such step.

    `edge`: what the shorter edge is resized to; `size`: (height, width) instead; `crop`: (height, width) cut from the
    middle; `scale`: a factor; `mean` and `std`: by colour.
    """

    edge: int | None = 224
    size: tuple[int, int] | None = None
    resample: int = BICUBIC
    crop: tuple[int, int] | None = (224, 224)
    scale: float | None = 1 / 255
    mean: tuple[float, ...] | None = CLIP_MEAN
    std: tuple[float, ...] | None = CLIP_STD

    def __call__(self, images: Sequence["np.ndarray | PillowImage"]) -> Float[np.ndarray, "B H W 3"]:
        """Return pixel values of images: uint8 arrays (H, W, 3), each of any size, or Pillow's images.

        Raises UserError for anything else, and where their sizes differ after the crop.
        """
        done = [self._one(as_rgb(image)) for image in images]
        sizes = [f"{values.shape[0]} x {values.shape[1]}" for values in done]
        if other := next((size for size in sizes if size != sizes[0]), None):
            raise UserError(f"images of {sizes[0]} and of {other} pixels do not fit one batch; set a crop")
        return np.stack(done) if done else np.zeros((0, 0, 0, 3), np.float32)

    def _one(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "h w 3"]:
        H, W = image.shape[:2]
        size = self.size
        if self.edge is not None:
            longer = int(self.edge * max(H, W) / min(H, W))  # rounded down
            size = (longer, self.edge) if W <= H else (self.edge, longer)
        values: np.ndarray = image
        if size is not None and size != (H, W):
            values = np.asarray(pillow().fromarray(image).resize(size[::-1], resample=self.resample))
        if self.crop is not None:
            values = _crop(values, self.crop)
        if self.scale is not None:
            values = values.astype(np.float64) * self.scale
        values = values.astype(np.float32)
        if self.mean is not None and self.std is not None:
            values = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return values


def from_json(config: Mapping[str, Any], source: str) -> Preprocessing:
    """Read a preprocessor_config.json. Raises UserError for another kind of preprocessing, or a wrong field."""
    named = config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIPImageProcessor"
    kind = next(
        (kind for kind in DEFAULTS if isinstance(named, str) and named.startswith((f"{kind}Image", f"{kind}Feature"))),
        None,
    )
    if kind is None:
        raise UserError(f"{source} describes a {named}; dreamjax has those of {', '.join(DEFAULTS)}")
    loose = ("size", "crop_size", "image_mean", "image_std")  # of several types, checked below
    defaults = DEFAULTS[kind] | ALWAYS
    free = {"do_convert_rgb": ANY, "do_pad": (False, None), "image_processor_type": ANY, "feature_extractor_type": ANY}
    fields = config_json.read(
        config, source, defaults={k: None if k in loose else v for k, v in defaults.items()}, fixed=free
    )
    fields |= {name: defaults[name] for name in loose if fields[name] is None}
    edge, size = _edge_or_size(fields["size"], square=kind == "ViT", source=source)
    if fields["resample"] > HAMMING:
        raise UserError(f"{source}: resample is {fields['resample']}, but Pillow's filters are 0 to {HAMMING}")
    return Preprocessing(
        edge=edge if fields["do_resize"] else None,
        size=size if fields["do_resize"] else None,
        resample=fields["resample"],
        crop=_height_width(fields["crop_size"], "crop_size", source) if fields["do_center_crop"] else None,
        scale=fields["rescale_factor"] if fields["do_rescale"] else None,
        mean=_colours(fields["image_mean"], "image_mean", source) if fields["do_normalize"] else None,
        std=_colours(fields["image_std"], "image_std", source) if fields["do_normalize"] else None,
    )


def from_open_clip(config: Mapping[str, Any], image: int, source: str) -> Preprocessing:
    """Read the preprocess_cfg of an open_clip_config.json. Raise UserError for another kind, or a wrong field."""
    if not isinstance(config, Mapping):
        raise UserError(f"{source}: preprocess_cfg is {config!r:.80}, but it must hold fields")
    fixed = {"mode": ("RGB",), "interpolation": ("bicubic",), "resize_mode": ("shortest",), "fill_color": ANY}
    config_json.read(config, source, defaults={"mean": None, "std": None, "size": None}, fixed=fixed)
    if (size := config.get("size")) not in (None, image, [image, image]):
        raise UserError(f"{source}: size is {size!r}, but the network takes images of {image} pixels a side")
    mean, std = (_colours(config.get(name, default), name, source) for name, default in _OPEN_CLIP.items())
    return Preprocessing(edge=image, crop=(image, image), mean=mean, std=std)


def _edge_or_size(value: object, square: bool, source: str) -> tuple[int | None, tuple[int, int] | None]:
    edge = value.get("shortest_edge") if isinstance(value, Mapping) else None if square else value
    if isinstance(value, Mapping) and "longest_edge" in value:
        raise UserError(f"{source}: size has a longest_edge, which is not supported")
    if edge is None:
        return None, _height_width(value, "size", source)
    if type(edge) is not int or not 1 <= edge <= MAX_SIDE:
        raise UserError(f"{source}: size is {value!r}, but it must be a whole number of pixels, {MAX_SIDE} at most")
    return edge, None


def _height_width(value: object, name: str, source: str) -> tuple[int, int]:
    """Read {"height": …, "width": …}, or one number for both."""
    height, width = (value.get("height"), value.get("width")) if isinstance(value, Mapping) else (value, value)
    if (
        type(height) is not int
        or type(width) is not int
        or not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE
    ):
        raise UserError(
            f"{source}: {name} is {value!r}, but it must be a height and a width in pixels, {MAX_SIDE} at most"
        )
    return height, width


def _colours(value: object, name: str, source: str) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3
    if len(values) != 3 or any(type(v) not in (int, float) for v in values) or (name.endswith("std") and 0 in values):
        raise UserError(f"{source}: {name} is {value!r}, but it must be a number for each of three colours")
    return tuple(float(v) for v in values)


def as_rgb(image: "np.ndarray | PillowImage") -> UInt8[np.ndarray, "H W 3"]:
    """Return the colours of an image, transparency on white. Raise UserError for another array."""
    if not isinstance(image, np.ndarray) and hasattr(image, "getbands"):  # Pillow's
        if "A" in image.getbands() or image.info.get("transparency") is not None:  # on white, as transformers does
            white = pillow().new("RGBA", image.size, (255, 255, 255, 255))
            image = np.asarray(pillow().alpha_composite(white, image.convert("RGBA")).convert("RGB"))
        else:
            image = np.asarray(image.convert("RGB"))
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"an image is a uint8 array of height x width x 3, not a {image.dtype} one of shape {image.shape}"
        )
    return image


def _crop(image: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """Cut out the middle; a smaller image gets zeros around it."""
    around = [(max(0, -((n - c) // 2)), max(0, c - n + (n - c) // 2)) for n, c in zip(image.shape, crop, strict=False)]
    image = np.pad(image, (*around, (0, 0)))
    top, left = ((n - c) // 2 for n, c in zip(image.shape, crop, strict=False))
    return image[top : top + crop[0], left : left + crop[1]]
