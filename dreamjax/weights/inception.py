"""Name table of Inception-v3: torchvision's; FID's network has the same names, and 1,008 classes.

The auxiliary classifier is used in training only and is ignored.
"""

from dreamjax.models.inception import InceptionV3
from dreamjax.weights.networks import Arguments, Network
from dreamjax.weights.table import Table, Tensors, conv_norm, layer

FID_CLASSES = 1008

TABLE = Table(
    *conv_norm("{A}.conv", "{A}.bn", "{A}"),
    *conv_norm("{A}.{B}.conv", "{A}.{B}.bn", "{A}/{B}"),
    *layer("fc", "fc"),
    aliases=((r"^module\.", ""),),
    ignored=r"AuxLogits\..*|.*\.num_batches_tracked",
)


def arguments(tensors: Tensors, source: str) -> Arguments:
    """Return the arguments of `InceptionV3`, from the shapes of its tensors."""
    classes = tensors["fc.weight"].shape[0]
    return {
        "unit": tensors["Conv2d_1a_3x3.conv.weight"].shape[0] // 2,
        "classes": classes,
        "fid": classes == FID_CLASSES,
    }


NETWORK = Network(InceptionV3, arguments, TABLE)
