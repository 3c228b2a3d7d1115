"""The sizes that both sides of the stage-B benchmark share: DreamDiffusion's, as published or scaled down."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import diffusion_models as models
import numpy as np


@dataclass(frozen=True)
class Sizes:
    """`parts`: config.json of every network; `config`: a `DreamDiffusionConfig` of them; latents of `size` × `size`."""

    name: str
    parts: dict[str, dict[str, Any]]
    config: Any
    size: int
    batch: int

    @property
    def resolution(self) -> int:
        """Return pixels of an image's side."""
        return self.size * 2 ** (len(self.parts["vae"]["block_out_channels"]) - 1)

    @property
    def context(self) -> tuple[int, int]:
        """Return (S, D) of the U-Net's context."""
        return self.parts["text_encoder"]["max_position_embeddings"], self.parts["unet"]["cross_attention_dim"]

    @property
    def projection(self) -> int:
        return self.parts["image_encoder"]["projection_dim"]

    def signal(self) -> np.ndarray:
        shape = (self.batch, self.config.encoder.model.channels, self.config.data.samples)
        return np.random.default_rng(0).standard_normal(shape, np.float32)

    def cached(self) -> dict[str, np.ndarray]:
        """Return what banks keep of the images, channels last: moments of the latents, and embeddings."""
        rng, latent = np.random.default_rng(1), self.parts["vae"]["latent_channels"]
        mean = rng.standard_normal((self.batch, self.size, self.size, latent), np.float32)
        embedding = rng.standard_normal((self.batch, self.projection), np.float32)
        return {"mean": mean, "log_variance": np.full_like(mean, -4.0), "embedding": embedding}

    def images(self) -> dict[str, np.ndarray]:
        """Return the images themselves, channels first: for the autoencoder, and for CLIP."""
        rng, side = np.random.default_rng(2), self.parts["image_encoder"]["image_size"]
        image = rng.uniform(-1, 1, (self.batch, 3, self.resolution, self.resolution)).astype(np.float32)
        return {"image": image, "for_clip": rng.standard_normal((self.batch, 3, side, side), np.float32)}

    def facts(self) -> dict[str, Any]:
        encoder = self.config.encoder.model
        return {
            "model": self.name,
            "unet_widths": self.parts["unet"]["block_out_channels"],
            "vae_widths": self.parts["vae"]["block_out_channels"],
            "clip": [self.parts["image_encoder"][k] for k in ("hidden_size", "num_hidden_layers")],
            "encoder": [encoder.dim, encoder.depth],
            "batch": self.batch,
            "latents": self.size,
            "dtype": self.config.model.dtype,
        }


def sizes_of(
    name: str, size: int | None, batch: int, remat: str, attention: str = "auto", dtype: str = "float32"
) -> Sizes:
    """Return sizes by name. `half`: half of every width and image side, published depths; `tiny`: for tests; `sd15`.

    So each network's share of the operations stays about what it is: autoencoder 22 %, CLIP 10 % of the published step.
    """
    from dreamjax.systems.dreamdiffusion_presets import PRESETS

    parts, config = models.parts_of(name), PRESETS["code"]
    encoder, samples = config.encoder.model, config.data.samples
    if name == "half":
        for part, keys in {
            "unet": ("sample_size",),  # whose widths are halved already
            "vae": ("block_out_channels",),
            "image_encoder": ("hidden_size", "intermediate_size", "num_attention_heads", "image_size"),
        }.items():
            parts[part] |= {key: _halved(parts[part][key]) for key in keys}
        encoder, samples = dataclasses.replace(encoder, dim=encoder.dim // 2, heads=encoder.heads // 2), samples // 2
    elif name == "tiny":
        encoder, samples = dataclasses.replace(encoder, dim=16, depth=1, heads=2), 64
    size = size or parts["unet"]["sample_size"]
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, samples=samples),
        target=dataclasses.replace(config.target, resolution=size * 2 ** (len(parts["vae"]["block_out_channels"]) - 1)),
        encoder=dataclasses.replace(config.encoder, model=encoder),
        model=dataclasses.replace(config.model, remat=remat, attention=attention, dtype=dtype),
        train=dataclasses.replace(config.train, batch_size=batch),
    )
    return Sizes(name, parts, config, size, batch)


def _halved(x: Any) -> Any:
    return [n // 2 for n in x] if isinstance(x, list) else x // 2


# ------------------------------------------------------------------------------------------------------------ dreamjax
def task_of(sizes: Sizes) -> Any:
    """Return the real Task at these sizes."""
    from dreamjax.runs.components import Components
    from dreamjax.systems.dreamdiffusion import DreamDiffusion

    class Sized(DreamDiffusion):
        parts = Components(architecture=sizes.parts)
        embedding_dim = sizes.projection

    return Sized(sizes.config)


def our_batch(sizes: Sizes) -> dict[str, np.ndarray]:
    """Return noise in every field of a training batch."""
    rows, signal = np.arange(sizes.batch), sizes.signal()
    return sizes.cached() | {
        "signal": signal,
        "valid": np.ones((sizes.batch, signal.shape[2]), np.float32),
        "image": rows.astype(np.int32),
        "index": np.stack([0 * rows, rows], axis=1).astype(np.uint32),
        "weight": np.ones(sizes.batch, np.float32),
    }
