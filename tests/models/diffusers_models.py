"""diffusers' own classes with random weights in every parameter: what the U-Net and the autoencoder are held to."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from dreamjax.models import convolution
from dreamjax.models import unet as unets
from dreamjax.weights import networks
from tests import parity

CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def levels(*attends: bool, **rest: Any) -> dict[str, Any]:
    """The fields of a U-Net whose levels, finest first, attend or not."""
    rest.setdefault("layers_per_block", 1)
    kinds = [CROSS if attending else PLAIN for attending in attends]
    down, up = tuple(kind[0] for kind in kinds), tuple(kind[1] for kind in reversed(kinds))
    return {"down_block_types": down, "up_block_types": up, **rest}


def coder(*widths: int, **rest: Any) -> dict[str, Any]:
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }
    return {"block_out_channels": widths, **kinds, **rest}


# each in miniature, with the fields in which the family differs from the others
UNETS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "sd1": (levels(True, False, block_out_channels=(32, 64), cross_attention_dim=16, attention_head_dim=4), (8, 8)),
    "sd2": (
        levels(
            *(True, False),
            block_out_channels=(32, 64),
            cross_attention_dim=24,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
        ),
        (8, 8),
    ),
    "inpainting": (
        levels(True, False, block_out_channels=(32, 64), cross_attention_dim=16, attention_head_dim=4, in_channels=9),
        (8, 8),
    ),
    "odd": (  # unequal widths and depths, no attention at the finest level, groups of 6, a size that does not halve
        levels(
            *(False, True),
            block_out_channels=(12, 36),
            norm_num_groups=6,
            layers_per_block=(1, 2),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=20,
            attention_head_dim=(2, 6),
            flip_sin_to_cos=False,
            freq_shift=1,
            act_fn="gelu",
            downsample_padding=0,
            norm_eps=1e-6,
        ),
        (11, 13),
    ),
    "deep": (  # one level of two transformer blocks
        levels(
            True,
            block_out_channels=(8,),
            norm_num_groups=2,
            cross_attention_dim=8,
            attention_head_dim=2,
            transformer_layers_per_block=2,
        ),
        (8, 6),
    ),
}
AUTOENCODERS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "sd": (coder(8, 16, 16, norm_num_groups=4, layers_per_block=2, sample_size=16), (24, 32)),
    "bare": (
        coder(
            8,
            norm_num_groups=2,
            latent_channels=3,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
        ),
        (9, 7),
    ),
}


def unet(name: str) -> tuple[Any, tuple[int, int]]:
    """(model, height and width of its latents)."""
    fields, size = UNETS[name]
    return parity.randomise(UNet2DConditionModel(**fields)), size


def autoencoder(name: str) -> tuple[Any, tuple[int, int]]:
    """(model, height and width of its images)."""
    fields, size = AUTOENCODERS[name]
    return parity.randomise(AutoencoderKL(**fields)), size


def ours(folder: Path, model: Any, **options: Any) -> tuple[networks.Network, dict[str, Any], Any]:
    """(network, arguments, parameters) of what diffusers itself saves of a model."""
    config, tensors = parity.saved(model, folder)
    network = networks.of(config, "config.json")
    arguments = network.arguments(config, "config.json")
    return network, arguments | options, network.table.to_dreamjax(tensors, network.shapes(arguments))


def compiled(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` as one program."""
    return jax.jit(function)(*args)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


def check(ours: Callable[[], Any], theirs: Callable[[], Any], module: torch.nn.Module, tolerance: float) -> None:
    """The two results are alike; where they are not, every residual block and transformer is compared, in order."""
    got, wanted = ours(), theirs()
    if parity.difference(got, wanted) <= tolerance:
        return
    a, b = _outputs_of_ours(ours), _outputs_of_theirs(theirs, module)
    parity.report({**a, "result": got}, {**b, "result": wanted}, tolerance)


def _outputs_of_ours(function: Callable[[], Any]) -> dict[str, Any]:
    found: list[Any] = []
    with ExitStack() as stack, jax.disable_jit():
        for kind in (convolution.ResBlock, unets.SpatialTransformer):
            call = kind.__call__

            def recorded(self, *args, call=call):
                found.append(call(self, *args))
                return found[-1]

            stack.enter_context(mock.patch.object(kind, "__call__", recorded))
        function()
    return {f"block {i}": output for i, output in enumerate(found)}


def _outputs_of_theirs(function: Callable[[], Any], module: torch.nn.Module) -> dict[str, Any]:
    found: list[Any] = []
    hooks = [
        part.register_forward_hook(
            lambda _, __, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        for part in module.modules()
        if type(part).__name__ in ("ResnetBlock2D", "Transformer2DModel")
    ]
    function()
    for hook in hooks:
        hook.remove()
    return {f"block {i}": nhwc(getattr(output, "sample", output)) for i, output in enumerate(found)}
