"""Name table of ResNet-50: torchvision's, and SwAV's without a classifier and with heads that are ignored."""

from dreamjax.models.resnet50 import DEPTHS, ResNet50
from dreamjax.weights.networks import Arguments, Network
from dreamjax.weights.table import Table, Tensors, conv_norm, layer

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


def arguments(tensors: Tensors, source: str) -> Arguments:
    """Return the arguments of `ResNet50`, from the shapes of its tensors."""
    classes = tensors["fc.weight"].shape[0] if "fc.weight" in tensors else 0
    return {"unit": tensors["conv1.weight"].shape[0], "classes": classes}


NETWORK = Network(ResNet50, arguments, TABLE)
