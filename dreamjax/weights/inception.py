"""Inception-v3 beside torchvision's names; FID's network has the same ones, and 1,008 classes.

The auxiliary classifier serves training alone and is left out.
"""

from collections.abc import Mapping
from typing import Any

from dreamjax.models.inception import InceptionV3
from dreamjax.weights.networks import Network
from dreamjax.weights.table import Table, conv_norm, layer

FID_CLASSES = 1008

TABLE = Table(
    *conv_norm("{A}.conv", "{A}.bn", "{A}"),
    *conv_norm("{A}.{B}.conv", "{A}.{B}.bn", "{A}/{B}"),
    *layer("fc", "fc"),
    aliases=((r"^module\.", ""),),
    ignored=r"AuxLogits\..*|.*\.num_batches_tracked",
)


def arguments(tensors: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Of `InceptionV3`, from its tensors' shapes."""
    classes = tensors["fc.weight"].shape[0]
    return {
        "unit": tensors["Conv2d_1a_3x3.conv.weight"].shape[0] // 2,
        "classes": classes,
        "fid": classes == FID_CLASSES,
    }


NETWORK = Network(InceptionV3, arguments, TABLE)
