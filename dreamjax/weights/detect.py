"""Detect which network a file of PyTorch weights holds, from the names and shapes of its tensors; their name tables.

detected = detect.recognise(weight_files.open_weights("alexnet-owt-7be5be79.pth"), "alexnet-owt-7be5be79.pth")
detected.kind.key, detected.arguments      # "alexnet", {"unit": 64}
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dreamjax.errors import UserError
from dreamjax.models.image_classifiers import DEPTHS, LPIPS, STEM, AlexNet, EfficientNetB1, ResNet
from dreamjax.models.inception import InceptionV3
from dreamjax.weights.networks import Arguments, Network
from dreamjax.weights.table import KERNEL, Table, Tensors, conv_norm, layer, layers

# ---------------------------------------------------------------------- name tables: torchvision's, and that of LPIPS
CONVOLUTIONS = (0, 3, 6, 8, 10)  # indices of AlexNet's convolutions among torchvision's `features`
FID_CLASSES = 1008  # FID's Inception has torchvision's names
PARALLEL = (r"^module\.", "")  # as a network in DataParallel is saved

ALEXNET_TABLE = Table(
    *layers("features", "convolutions", *((str(place), str(k)) for k, place in enumerate(CONVOLUTIONS))),
    aliases=(PARALLEL,),
    ignored=r"classifier\..*",
)
# The package's alex.pth has only the weights of the layers (`lin0.model.1.weight`, …); the network is in torchvision's
# file, whose tensors may be given together with them.
LPIPS_TABLE = Table(
    *layers("net", "net/convolutions", *((f"slice{k + 1}.{i}", str(k)) for k, i in enumerate(CONVOLUTIONS))),
    *((f"lin{k}.model.1.weight", f"lin/{k}/kernel", KERNEL) for k in range(len(CONVOLUTIONS))),
    aliases=(PARALLEL, *((rf"^features\.{i}\.", f"net.slice{k + 1}.{i}.") for k, i in enumerate(CONVOLUTIONS))),
    # the package keeps its layers twice; LPIPS has no use for AlexNet's classifier
    ignored=r"lins\..*|scaling_layer\..*|classifier\..*",
)
INCEPTION_TABLE = Table(
    *conv_norm("{A}.conv", "{A}.bn", "{A}"),
    *conv_norm("{A}.{B}.conv", "{A}.{B}.bn", "{A}/{B}"),
    *layer("fc", "fc"),
    aliases=(PARALLEL,),
    ignored=r"AuxLogits\..*|.*\.num_batches_tracked",  # the auxiliary classifier is used in training only
)
_BLOCK, _PATH = "features.{i}.{j}.block.{k}", "layers/{i}/{j}/block/{k}"
EFFICIENTNET_TABLE = Table(
    *conv_norm("features.{i}.0", "features.{i}.1", "layers/{i}"),
    *conv_norm(f"{_BLOCK}.0", f"{_BLOCK}.1", _PATH),
    *layers(_BLOCK, _PATH, "fc1", "fc2"),
    aliases=(PARALLEL,),
    ignored=r"classifier\..*|.*\.num_batches_tracked",
)
_UNITS = {"unit1": ("conv1", "bn1"), "unit2": ("conv2", "bn2"), "unit3": ("conv3", "bn3")}
_UNITS |= {"shortcut": ("downsample.0", "downsample.1")}
RESNET50_TABLE = Table(
    *conv_norm("conv1", "bn1", "stem"),
    *(
        row
        for k in range(len(DEPTHS))
        for unit, (conv, bn) in _UNITS.items()
        for row in conv_norm(f"layer{k + 1}.{{i}}.{conv}", f"layer{k + 1}.{{i}}.{bn}", f"layers/{k}/{{i}}/{unit}")
    ),
    aliases=(PARALLEL,),
    ignored=r"(fc|projection_head|prototypes)\..*|.*\.num_batches_tracked",  # the heads are SwAV's
)


def _sizes(unit: str, axis: int = 0, of_one: int = 1) -> Callable[[Tensors, str], Arguments]:
    return lambda tensors, source: {"unit": tensors[unit].shape[axis] // of_one}


def _inception_sizes(tensors: Tensors, source: str) -> Arguments:
    classes = tensors["fc.weight"].shape[0]
    unit = tensors["Conv2d_1a_3x3.conv.weight"].shape[0] // 2
    return {"unit": unit, "classes": classes, "fid": classes == FID_CLASSES}


ALEXNET = Network(AlexNet, _sizes("features.0.weight"), ALEXNET_TABLE)
LPIPS_NETWORK = Network(LPIPS, _sizes("lin0.model.1.weight", axis=1), LPIPS_TABLE)
INCEPTION = Network(InceptionV3, _inception_sizes, INCEPTION_TABLE)
EFFICIENTNET = Network(EfficientNetB1, _sizes("features.0.0.weight", of_one=STEM), EFFICIENTNET_TABLE)
RESNET50 = Network(ResNet, _sizes("conv1.weight"), RESNET50_TABLE)


@dataclass(frozen=True)
class KnownNetwork:
    """A kind of network. `has`: whether tensors (by names without "module.") are of it. `files`: the published ones."""

    key: str
    title: str
    files: tuple[str, ...]
    network: Network
    has: Callable[[Tensors], bool]


@dataclass(frozen=True)
class DetectedNetwork:
    """The kind of a file of weights, the arguments of its network, and its tensors."""

    kind: KnownNetwork
    arguments: Arguments
    tensors: Tensors


def _names(*wanted: str) -> Callable[[Tensors], bool]:
    return lambda tensors: all(name in tensors for name in wanted)


def _is_alexnet(tensors: Tensors) -> bool:
    named = _names("features.0.weight", "features.10.weight", "classifier.6.weight")(tensors)
    return named and tuple(tensors["features.0.weight"].shape[1:]) == (3, 11, 11)  # else a VGG


def _is_inception(fid: bool) -> Callable[[Tensors], bool]:
    named = _names("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight", "fc.weight")
    return lambda tensors: named(tensors) and (tensors["fc.weight"].shape[0] == FID_CLASSES) == fid


def _is_lpips(whole: bool) -> Callable[[Tensors], bool]:
    return lambda t: "lin0.model.1.weight" in t and ("net.slice1.0.weight" in t) == whole


_is_efficientnet = _names("features.0.0.weight", "features.1.0.block.1.fc1.weight")
_is_resnet50 = _names("conv1.weight", "layer1.0.conv3.weight", "layer3.5.conv3.weight")
_INCEPTION_FILE, _FID_FILE = "inception_v3_google-0cc3c7bd.pth", "pt_inception-2015-12-05-6726825d.pth"
_EFFICIENTNET_FILES = ("efficientnet_b1_rwightman-bac287d4.pth", "efficientnet_b1-c27df63c.pth")
KINDS = (
    KnownNetwork("alexnet", "AlexNet", ("alexnet-owt-7be5be79.pth",), ALEXNET, _is_alexnet),
    KnownNetwork("inception", "Inception-v3", (_INCEPTION_FILE,), INCEPTION, _is_inception(False)),
    KnownNetwork("fid", "Inception of FID", (_FID_FILE,), INCEPTION, _is_inception(True)),
    KnownNetwork("efficientnet", "EfficientNet-B1", _EFFICIENTNET_FILES, EFFICIENTNET, _is_efficientnet),
    KnownNetwork("resnet50", "ResNet-50", ("swav_800ep_pretrain.pth.tar",), RESNET50, _is_resnet50),
    KnownNetwork("lpips", "LPIPS on AlexNet", (), LPIPS_NETWORK, _is_lpips(whole=True)),
    KnownNetwork("lpips_layers", "layers of LPIPS on AlexNet", ("alex.pth",), LPIPS_NETWORK, _is_lpips(whole=False)),
)


def recognise(tensors: Tensors, source: str) -> DetectedNetwork:
    """Return the network of a file. Raise UserError for an unknown kind, and for a network that was never trained."""
    plain = {re.sub(r"^module\.", "", name): tensor for name, tensor in tensors.items()}
    for kind in KINDS:
        if kind.has(plain):
            means = [tensor for name, tensor in plain.items() if name.endswith(".running_mean")]
            if means and not any(np.any(np.asarray(mean)) for mean in means):
                raise UserError(
                    f"{source} is a network that was never trained (its running means are 0): no score is shown for it"
                )
            return DetectedNetwork(kind, kind.network.arguments(plain, source), plain)
    accepted = ", ".join(f"{kind.title} ({' or '.join(kind.files)})" for kind in KINDS if kind.files)
    raise UserError(
        f"{source} does not hold a known network for image metrics; accepted are the PyTorch files of {accepted}, and "
        f"folders of a CLIP, DINOv2 or ViT"
    )
