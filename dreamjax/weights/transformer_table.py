"""What the tables and the config.json of transformers' encoders have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamjax.errors import UserError
from dreamjax.models.layers import ACTIVATIONS
from dreamjax.weights import config_json
from dreamjax.weights.table import IDENTITY, KERNEL, Rows, Transform, layer, norm


@dataclass(frozen=True)
class Batched(Transform):
    """PyTorch's tensor has `ones` axes of length 1 in front, as if it were a batch."""

    ones: int = 1

    def to_dreamjax(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(array.shape[self.ones :])

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array.reshape((1,) * self.ones + array.shape)

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * self.ones + shape


def batched(ones: int) -> Batched:
    return Batched(IDENTITY.axes, ones)


def attention(query: str, key: str, value: str, out: str, path: str) -> Rows:
    """PyTorch's three projections are thirds of our `qkv`."""
    thirds = [(name, (j, 3)) for j, name in enumerate((query, key, value))]
    return (
        *((f"{name}.weight", f"{path}/qkv/kernel", KERNEL, part) for name, part in thirds),
        *((f"{name}.bias", f"{path}/qkv/bias", IDENTITY, part) for name, part in thirds),
        *layer(out, f"{path}/proj"),
    )


def clip_blocks(model: str) -> Rows:
    """The blocks of CLIP's text and vision model."""
    block = model + ".encoder.layers.{i}"
    q, k, v, out = (f"{block}.self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
    return (
        *norm(f"{block}.layer_norm1", "blocks/norm1"),
        *attention(q, k, v, out, "blocks/attn"),
        *norm(f"{block}.layer_norm2", "blocks/norm2"),
        *layer(f"{block}.mlp.fc1", "blocks/mlp/fc1"),
        *layer(f"{block}.mlp.fc2", "blocks/mlp/fc2"),
    )


def image_tokens(embeddings: str) -> Rows:
    """What comes before the blocks in DINOv2 and ViT."""
    return (
        (f"{embeddings}.cls_token", "cls_token", batched(2)),
        (f"{embeddings}.position_embeddings", "pos_embed", batched(1)),
        *layer(f"{embeddings}.patch_embeddings.projection", "patch_embed"),
    )


def bert_attention(block: str) -> Rows:
    """The attention of DINOv2 and ViT as it lies in files, by the names that BERT's had."""
    q, k, v = (f"{block}.attention.attention.{name}" for name in ("query", "key", "value"))
    return attention(q, k, v, f"{block}.attention.output.dense", "blocks/attn")


# how the state_dict of transformers 5 spells those, for both
BERT_ALIASES = (
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)


def read(
    config: Mapping[str, Any], source: str, defaults: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """`config_json.read`, and what holds for every encoder.

    Raises UserError for widths that do not fit, an activation that we do not have, and images that are not square.
    """
    found = config_json.read(config, source, defaults=defaults, fixed=fixed)
    for name in ("image_size", "patch_size"):
        if name in found:
            found[name] = _side(found[name], name, source)
    width, heads, activation = found["hidden_size"], found["num_attention_heads"], found["hidden_act"]
    if width % heads:
        raise UserError(f"{source}: hidden_size {width} does not divide by num_attention_heads {heads}")
    if activation not in ACTIVATIONS:
        raise UserError(f"{source}: hidden_act is {activation!r}; dreamjax has {', '.join(ACTIVATIONS)}")
    if "patch_size" in found and found["image_size"] < found["patch_size"]:
        raise UserError(f"{source}: image_size {found['image_size']} is less than patch_size {found['patch_size']}")
    return found


def _side(value: Any, name: str, source: str) -> int:
    """A side in pixels, which configs tell once or twice. (Its default is a tuple, so that `read` lets both pass.)"""
    sides = value if isinstance(value, tuple) else (value, value)
    if len(sides) not in (1, 2) or any(type(side) is not int or side < 1 for side in sides) or len(set(sides)) != 1:
        raise UserError(f"{source}: {name} is {value!r}, but it takes one whole number of pixels: images are square")
    return sides[0]


def blocks(found: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that every encoder's module takes."""
    return {
        "dim": found["hidden_size"],
        "depth": found["num_hidden_layers"],
        "heads": found["num_attention_heads"],
        "activation": found["hidden_act"],
        "epsilon": found["layer_norm_eps"],
    }


def image(found: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that every vision transformer takes besides."""
    return {"image": found["image_size"], "patch": found["patch_size"], "channels": found["num_channels"]}


# ------------------------------------------------------------------------------------------------- the halves of CLIP
def clip_half(config: Mapping[str, Any], half: str, source: str) -> tuple[Mapping[str, Any], bool]:
    """(config of the text or vision model, whether it has a projection) from its own config.json or that of both.

    A CLIPModel's config nests the two, older ones a second time as `…_config_dict`, which counts where it is there.
    """
    if "text_config" in config or "vision_config" in config:
        nested = config.get(f"{half}_config_dict") or config.get(f"{half}_config") or {}
        if not isinstance(nested, Mapping):
            raise UserError(f"{source}: {half}_config is {nested!r}, but it takes the fields of a model")
        return {**nested, "projection_dim": config.get("projection_dim", 512)}, True
    return config, (config_json.class_of(config) or "").endswith("WithProjection")


def projection(found: Mapping[str, Any], source: str) -> int:
    """Width of the common space; transformers' default where the config does not tell it."""
    width = 512 if found["projection_dim"] is None else found["projection_dim"]
    if type(width) is not int or width < 1:
        raise UserError(f"{source}: projection_dim is {width!r}, but it takes a whole number of at least 1")
    return width
