"""Name table of EfficientNet-B1: torchvision's."""

from dreamjax.models.efficientnet import STEM, EfficientNetB1
from dreamjax.weights.networks import Arguments, Network
from dreamjax.weights.table import Table, Tensors, conv_norm, layer

_BLOCK, _PATH = "features.{i}.{j}.block.{k}", "layers/{i}/{j}/block/{k}"

TABLE = Table(
    *conv_norm("features.{i}.0", "features.{i}.1", "layers/{i}"),
    *conv_norm(f"{_BLOCK}.0", f"{_BLOCK}.1", _PATH),
    *layer(f"{_BLOCK}.fc1", f"{_PATH}/fc1"),
    *layer(f"{_BLOCK}.fc2", f"{_PATH}/fc2"),
    *layer("classifier.1", "fc"),
    aliases=((r"^module\.", ""),),
    ignored=r".*\.num_batches_tracked",
)


def arguments(tensors: Tensors, source: str) -> Arguments:
    """Return the arguments of `EfficientNetB1`, from the shapes of its tensors."""
    classes = tensors["classifier.1.weight"].shape[0] if "classifier.1.weight" in tensors else 0
    return {"unit": tensors["features.0.0.weight"].shape[0] // STEM, "classes": classes}


NETWORK = Network(EfficientNetB1, arguments, TABLE)
