"""Generate images from prompts: a batch at a time through one compiled program, then a grid of the first ones."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from dreamjax.console import Bar, progress
from dreamjax.errors import UserError
from dreamjax.generation import batches
from dreamjax.generation.batches import Sampling
from dreamjax.parallel import environment
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.reports import figures
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.storage import atomic, image_files, locks, paths, presence
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.systems import opening
from dreamjax.systems.base import GeneratesFromText, generator
from dreamjax.weights.pipeline_folder import PipelineFolder


@dataclass(frozen=True, kw_only=True)
class TextRequest(Sampling):
    """A request: prompts, input images and the settings of sampling."""

    prompts: tuple[str, ...]
    negative: str = ""
    per_prompt: int = 1
    clip_skip: int = 0
    init_image: str | None = None
    mask_image: str | None = None
    strength: float | None = None  # of image-to-image; None: 0.8, and 1 with a mask
    latents: str | None = None  # .npy, (n, channels, h, w) or (n, h, w, channels): the noise to start from

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompts:
            raise UserError("there is no prompt; give --prompt or --prompt-file")
        if self.mask_image and not self.init_image:
            raise UserError(
                "--mask-image selects the part of an image that is generated again: give the image with --init-image"
            )
        if self.strength is not None and not self.init_image:
            raise UserError("--strength sets how much of an image is changed: give the image with --init-image")
        for text in (*self.prompts, self.negative):
            if any("\ud800" <= letter <= "\udfff" for letter in text):  # bytes of a command line that were not UTF-8
                raise UserError(f"the prompt {text!a} is not text: write it in UTF-8")
        for path in (self.init_image, self.mask_image, self.latents):
            if path and not presence.is_file(paths.reachable(path)):
                raise UserError(f"{path}: no such file")

    @property
    def count(self) -> int:
        return len(self.prompts) * self.per_prompt

    @property
    def change(self) -> float:
        """Return the strength of the change of the given image; 1 without one."""
        if not self.init_image:
            return 1.0
        return self.strength if self.strength is not None else 1.0 if self.mask_image else 0.8


def open_model(
    path: epath.PathLike, dtype: str, attention: str = "auto", variant: str | None = None
) -> LatentDiffusion:
    """Open a pipeline's folder, its hub id, or the work directory of a run that generates from text; on all devices."""
    environment.check_attention(attention, "--attention", "--attention auto")
    if attention == "cudnn" and dtype != "bfloat16":
        raise UserError("--attention cudnn computes in bfloat16: add --dtype bfloat16")
    mesh = meshes.make(MeshConfig())
    if presence.is_folder(epath.Path(path) / "checkpoints"):
        run = opening.open_run(path)
        task = generator(run, GeneratesFromText, "generate images from text")
        return task.pipeline(run, mesh, dtype=dtype, attention=attention)
    return LatentDiffusion.open(PipelineFolder.open(path, variant), mesh, dtype=jnp.dtype(dtype), attention=attention)


class TextSummary(batches.Summary):
    """The summary of what `generate` wrote, as JSON."""

    out: str
    images: int
    grid: str


def generate(model: LatentDiffusion, request: TextRequest, out: epath.PathLike) -> TextSummary:
    """Generate the images of `request` in the new folder `out`.

    It holds 00000.png … in the order of the prompts, grid.png and images.jsonl (the inputs of each image). Image i
    depends on the model, its prompt, the settings, the seed and i, and not on the batch.
    """
    out = paths.refuse_existing(out)
    made: list[dict[str, object]] = []
    first: list[np.ndarray] = []
    with (
        locks.new_output(out),
        atomic.new_folder(out, last="images.jsonl") as folder,
        progress("generate", request.count) as bar,
    ):
        for i, image in enumerate(images(model, request, bar)):
            image_files.write_png(folder / f"{i:05d}.png", image)
            made.append({"file": f"{i:05d}.png", "prompt": request.prompts[i // request.per_prompt], "index": i})
            first += [image] if i < figures.GRID_IMAGES else []
        atomic.write_bytes(folder / "grid.png", figures.image_grid(first, [str(entry["prompt"]) for entry in made]))
        lines = [json.dumps(entry | {"seed": request.seed}, ensure_ascii=False) + "\n" for entry in made]
        atomic.write_text(folder / "images.jsonl", "".join(lines))
    summary = batches.summary(model, request)
    return {"out": str(out), "images": len(made), "grid": str(out / "grid.png"), **summary}


def images(
    model: LatentDiffusion, request: TextRequest, bar: Bar | None = None
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Generate the images one after another."""
    size = model.latent_size(request.height, request.width)
    common, start = _given_images(model, request, size), _given_latents(model, request, size)

    def rows(index: np.ndarray) -> dict[str, np.ndarray]:
        texts = [request.prompts[i // request.per_prompt] for i in index]
        given = {"context": np.asarray(model.context(texts, request.clip_skip))}
        given |= {name: np.broadcast_to(array, (len(index), *array.shape)) for name, array in common.items()}
        return given if start is None else given | {"noise": start[index % len(start)]}

    empty = model.context([request.negative], request.clip_skip) if request.guided else None
    numbers = np.arange(request.count)
    return batches.generate(model, request, numbers, rows, unconditional=empty, strength=request.change, bar=bar)


def _given_images(model: LatentDiffusion, request: TextRequest, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return `image` in [-1, 1] and `mask` in {0, 1}, where the request has them."""
    if not request.init_image:
        return {}
    H, W = (side * model.factor for side in size)
    given = {"image": image_files.load_sized(request.init_image, (H, W)).astype(np.float32) / 127.5 - 1}
    if request.mask_image:
        shapes = [image_files.load_sized(path).shape[:2] for path in (request.init_image, request.mask_image)]
        if shapes[0] != shapes[1]:
            (h, w), (y, x) = shapes
            raise UserError(
                f"{request.mask_image}: the mask has {y} x {x} pixels and its image {h} x {w}; make them equal"
            )
        grey = image_files.load_sized(request.mask_image, (H, W)).astype(np.float32).mean(-1)
        given["mask"] = (grey >= 127.5).astype(np.float32)
    return given


def _given_latents(
    model: LatentDiffusion, request: TextRequest, size: tuple[int, int]
) -> Float[np.ndarray, "n h w Z"] | None:
    """Return the noise of --latents, channels last."""
    if not request.latents:
        return None
    read = torch_files.read(request.latents)
    if not hasattr(read, "shape"):
        raise UserError(f"{request.latents}: it does not hold an array; --latents takes a .npy that numpy.save wrote")
    array, wanted = np.asarray(read), (*size, model.latent_channels)
    if array.ndim == 4 and array.shape[1:] == (wanted[2], *wanted[:2]):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[1:] != wanted or array.dtype.kind != "f":
        raise UserError(
            f"{request.latents}: an array of shape {array.shape} and type {array.dtype}; --latents takes (n, "
            f"{wanted[2]}, {wanted[0]}, {wanted[1]}) numbers for images of this size"
        )
    if not np.isfinite(array).all():
        raise UserError(f"{request.latents}: it holds NaN or infinite numbers, from which no image can be generated")
    if len(array) not in (1, request.count):
        raise UserError(
            f"{request.latents}: it holds the noise of {len(array)} images, and {request.count} are requested; give "
            "one for all or one for each"
        )
    return np.ascontiguousarray(array, np.float32)
