"""The U-Net of latent diffusion for the benchmarks: its sizes by name, ours and diffusers', and what both are given."""

import argparse
import os
from dataclasses import dataclass
from typing import Any

import common
import numpy as np

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # so that the contestants fit one GPU
CONTESTANTS = ("dreamjax", "torch eager", "torch.compile")


@dataclass(frozen=True)
class Sizes:
    """`parts`: config.json of every part, of `runs/shapes.py`; latents of `size` × `size`."""

    name: str
    parts: dict[str, dict[str, Any]]
    size: int
    batch: int
    dtype: str

    @property
    def tokens(self) -> int:
        return self.parts["text_encoder"]["max_position_embeddings"]

    def latents(self) -> np.ndarray:
        """Return noise, channels last."""
        shape = (self.batch, self.size, self.size, self.parts["unet"]["in_channels"])
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def context(self) -> np.ndarray:
        shape = (self.batch, self.tokens, self.parts["unet"]["cross_attention_dim"])
        return np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def flops(self) -> float:
        """Return the operations of one forward pass of the U-Net over the batch."""
        from dreamjax.models import flops

        return self.batch * flops.unet(ours(self)[1], self.size, self.size, self.tokens)

    def facts(self) -> dict[str, Any]:
        unet = self.parts["unet"]
        return {
            "model": self.name,
            "widths": unet["block_out_channels"],
            "latents": [self.batch, self.size, self.size, unet["in_channels"]],
            "context": [self.tokens, unet["cross_attention_dim"]],
            "dtype": self.dtype,
        }


def parts_of(name: str) -> dict[str, dict[str, Any]]:
    """Return an architecture by name; `half`: Stable Diffusion 1.5 with half the widths, minutes on 2 cores."""
    from dreamjax.runs import shapes

    parts = shapes.get("sd15" if name == "half" else name)
    if name == "half":
        parts["unet"]["block_out_channels"] = [width // 2 for width in parts["unet"]["block_out_channels"]]
    return parts


def arguments(description: str | None, batch: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="half", help="half, sd15, sd21, shapes or tiny")
    parser.add_argument("--size", type=int, help="of the latents; 32 on CPU, and the model's own on a GPU")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="float32 on CPU, bfloat16 on a GPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--apart", action="store_true", help="one process after another, where two do not fit")
    parser.add_argument("--only", choices=CONTESTANTS, help=argparse.SUPPRESS)  # this is the child of a benchmark
    return parser


def sizes_of(args: argparse.Namespace) -> Sizes:
    gpu = common.on_gpu()
    parts = parts_of(args.model)
    usual = parts["unet"]["sample_size"]
    return Sizes(
        args.model,
        parts,
        args.size or (usual if gpu else min(usual, 32)),
        args.batch,
        args.dtype or ("bfloat16" if gpu else "float32"),
    )


def names_of(args: argparse.Namespace) -> list[str]:
    return [name for name in CONTESTANTS if name != "torch.compile" or not args.without_compile]


# ------------------------------------------------------------------------------------------------------------ dreamjax
def ours(sizes: Sizes) -> tuple[Any, dict[str, Any]]:
    """Return (network, its arguments)."""
    import jax.numpy as jnp

    from dreamjax.weights import networks

    network = networks.of(sizes.parts["unet"], sizes.name)
    return network, network.arguments(sizes.parts["unet"], sizes.name) | {"dtype": jnp.dtype(sizes.dtype)}


def our_peak() -> float | None:
    """Return bytes on the GPU at the peak; None on CPU."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


# ------------------------------------------------------------------------------------------------------------- PyTorch
def theirs(sizes: Sizes, *, compiled: bool, twin: bool = False) -> tuple[Any, Any]:
    """Return (diffusers' U-Net with random weights, channels last; its device). `twin`: that of `unet_twin.py`."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(common.CORES)
    torch.manual_seed(0)
    with device:
        model = unet_class(twin).from_config(unet_fields(sizes.parts)).to(memory_format=torch.channels_last)
    if compiled:
        model.compile()
    return model, device


def unet_class(twin: bool) -> Any:
    if twin:
        from unet_twin import UNet

        return UNet
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel


def unet_fields(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in parts["unet"].items() if name != "_class_name"}


def alphas(parts: dict[str, dict[str, Any]], device: Any) -> Any:
    """Return the cumulative products of the schedule, `scaled_linear` in every architecture here."""
    import torch

    s = parts["scheduler"]
    betas = torch.linspace(s["beta_start"] ** 0.5, s["beta_end"] ** 0.5, s["num_train_timesteps"], device=device) ** 2
    return (1 - betas).cumprod(0)


def channels_first(x: np.ndarray, device: Any) -> Any:
    """Return the same numbers as a channels-last tensor of PyTorch."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    return tensor.to(device, memory_format=torch.channels_last)


def wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def their_peak() -> float | None:
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
