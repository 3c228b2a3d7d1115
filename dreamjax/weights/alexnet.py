"""AlexNet beside torchvision's names, and LPIPS on it beside those of its authors' package (`lpips`).

The package's alex.pth has the weights of the layers alone (`lin0.model.1.weight`, …); the network lies in torchvision's
file, whose tensors may be given together with them.
"""

from collections.abc import Mapping
from typing import Any

from dreamjax.models.alexnet import AlexNet
from dreamjax.models.lpips import LPIPS
from dreamjax.weights.networks import Network
from dreamjax.weights.table import KERNEL, Table, layer

CONVOLUTIONS = (0, 3, 6, 8, 10)  # places of the convolutions among torchvision's `features`
LINEAR = (1, 4, 6)
PARALLEL = (r"^module\.", "")  # as a network in DataParallel is saved

TABLE = Table(
    *(row for k, place in enumerate(CONVOLUTIONS) for row in layer(f"features.{place}", f"convolutions/{k}")),
    *(row for k, place in enumerate(LINEAR) for row in layer(f"classifier.{place}", f"classifier/{k}")),
    aliases=(PARALLEL,),
)
LPIPS_TABLE = Table(
    *(
        row
        for k, place in enumerate(CONVOLUTIONS)
        for row in layer(f"net.slice{k + 1}.{place}", f"net/convolutions/{k}")
    ),
    *((f"lin{k}.model.1.weight", f"lin/{k}/kernel", KERNEL) for k in range(len(CONVOLUTIONS))),
    aliases=(
        PARALLEL,
        *((rf"^features\.{place}\.", f"net.slice{k + 1}.{place}.") for k, place in enumerate(CONVOLUTIONS)),
    ),
    # the package keeps its layers twice; and AlexNet's classifier is none of it
    ignored=r"lins\..*|scaling_layer\..*|classifier\..*",
)


def arguments(tensors: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Of `AlexNet`, from its tensors' shapes."""
    return {"unit": tensors["features.0.weight"].shape[0], "classes": tensors["classifier.6.weight"].shape[0]}


def lpips_arguments(tensors: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Of `LPIPS`."""
    return {"unit": tensors["lin0.model.1.weight"].shape[1]}


NETWORK = Network(AlexNet, arguments, TABLE)
LPIPS_NETWORK = Network(LPIPS, lpips_arguments, LPIPS_TABLE)
