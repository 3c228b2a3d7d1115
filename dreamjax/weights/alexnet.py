"""Name tables of AlexNet (torchvision's) and of LPIPS on it (those of its authors' package `lpips`).

The package's alex.pth has only the weights of the layers (`lin0.model.1.weight`, …); the network is in torchvision's
file, whose tensors may be given together with them.
"""

from dreamjax.models.alexnet import AlexNet
from dreamjax.models.lpips import LPIPS
from dreamjax.weights.networks import Arguments, Network
from dreamjax.weights.table import KERNEL, Table, Tensors, layer

CONVOLUTIONS = (0, 3, 6, 8, 10)  # indices of the convolutions among torchvision's `features`
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
    # the package keeps its layers twice; LPIPS has no use for AlexNet's classifier
    ignored=r"lins\..*|scaling_layer\..*|classifier\..*",
)


def arguments(tensors: Tensors, source: str) -> Arguments:
    """Return the arguments of `AlexNet`, from the shapes of its tensors."""
    return {"unit": tensors["features.0.weight"].shape[0], "classes": tensors["classifier.6.weight"].shape[0]}


def lpips_arguments(tensors: Tensors, source: str) -> Arguments:
    """Return the arguments of `LPIPS`, from the shapes of its tensors."""
    return {"unit": tensors["lin0.model.1.weight"].shape[1]}


NETWORK = Network(AlexNet, arguments, TABLE)
LPIPS_NETWORK = Network(LPIPS, lpips_arguments, LPIPS_TABLE)
