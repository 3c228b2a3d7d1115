"""ResNet-50 beside torchvision's names, among them SwAV's: without a classifier, with what its training needed."""

from collections.abc import Mapping
from typing import Any

from dreamjax.models.resnet50 import DEPTHS, ResNet50
from dreamjax.weights.networks import Network
from dreamjax.weights.table import Table, conv_norm, layer

_UNITS = (("conv1", "bn1", "unit1"), ("conv2", "bn2", "unit2"), ("conv3", "bn3", "unit3"))
_SHORTCUT = ("downsample.0", "downsample.1", "shortcut")

TABLE = Table(
    *conv_norm("conv1", "bn1", "stem"),
    *(
        row
        for k in range(len(DEPTHS))
        for conv, bn, unit in (*_UNITS, _SHORTCUT)
        for row in conv_norm(f"layer{k + 1}.{{i}}.{conv}", f"layer{k + 1}.{{i}}.{bn}", f"layers/{k}/{{i}}/{unit}")
    ),
    *layer("fc", "fc"),
    aliases=((r"^module\.", ""),),
    ignored=r"(projection_head|prototypes)\..*|.*\.num_batches_tracked",
)


def arguments(tensors: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Of `ResNet50`, from its tensors' shapes."""
    classes = tensors["fc.weight"].shape[0] if "fc.weight" in tensors else 0
    return {"unit": tensors["conv1.weight"].shape[0], "classes": classes}


NETWORK = Network(ResNet50, arguments, TABLE)
