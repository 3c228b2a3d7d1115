"""Detect which network a file of PyTorch weights holds, from the names and shapes of its tensors.

detected = detect.recognise(weight_files.open_weights("alexnet-owt-7be5be79.pth"), "alexnet-owt-7be5be79.pth")
detected.kind.key, detected.arguments      # "alexnet", {"unit": 64, "classes": 1000}
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dreamjax.errors import UserError
from dreamjax.weights import alexnet, efficientnet, inception, resnet50
from dreamjax.weights.networks import Arguments, Network
from dreamjax.weights.table import Tensors


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
    return lambda tensors: named(tensors) and (tensors["fc.weight"].shape[0] == inception.FID_CLASSES) == fid


def _is_lpips(whole: bool) -> Callable[[Tensors], bool]:
    return lambda t: "lin0.model.1.weight" in t and ("net.slice1.0.weight" in t) == whole


KINDS = (
    KnownNetwork("alexnet", "AlexNet", ("alexnet-owt-7be5be79.pth",), alexnet.NETWORK, _is_alexnet),
    KnownNetwork(
        "inception", "Inception-v3", ("inception_v3_google-0cc3c7bd.pth",), inception.NETWORK, _is_inception(False)
    ),
    KnownNetwork(
        "fid", "Inception of FID", ("pt_inception-2015-12-05-6726825d.pth",), inception.NETWORK, _is_inception(True)
    ),
    KnownNetwork(
        "efficientnet",
        "EfficientNet-B1",
        ("efficientnet_b1_rwightman-bac287d4.pth", "efficientnet_b1-c27df63c.pth"),
        efficientnet.NETWORK,
        _names("features.0.0.weight", "features.1.0.block.1.fc1.weight"),
    ),
    KnownNetwork(
        "resnet50",
        "ResNet-50",
        ("swav_800ep_pretrain.pth.tar",),
        resnet50.NETWORK,
        _names("conv1.weight", "layer1.0.conv3.weight", "layer3.5.conv3.weight"),
    ),
    KnownNetwork("lpips", "LPIPS on AlexNet", (), alexnet.LPIPS_NETWORK, _is_lpips(whole=True)),
    KnownNetwork(
        "lpips_layers", "layers of LPIPS on AlexNet", ("alex.pth",), alexnet.LPIPS_NETWORK, _is_lpips(whole=False)
    ),
)


def recognise(tensors: Tensors, source: str) -> DetectedNetwork:
    """Return the network of a file. Raise UserError for an unknown kind, and for a network that was never trained."""
    plain = {re.sub(r"^module\.", "", name): tensor for name, tensor in tensors.items()}
    for kind in KINDS:
        if kind.has(plain):
            _refuse_untrained(plain, source)
            return DetectedNetwork(kind, kind.network.arguments(plain, source), plain)
    accepted = ", ".join(f"{kind.title} ({' or '.join(kind.files)})" for kind in KINDS if kind.files)
    raise UserError(
        f"{source} does not hold a known network for image metrics; accepted are the PyTorch files of {accepted}, and "
        f"folders of a CLIP, DINOv2 or ViT"
    )


def _refuse_untrained(tensors: Tensors, source: str) -> None:
    """Raise UserError where the running statistics of all normalisations are at their initial values."""
    means = [name for name in tensors if name.endswith(".running_mean")]
    moved = any(np.any(np.asarray(tensors[name])) for name in means)
    if means and not moved:
        raise UserError(
            f"{source} is a network that was never trained (its running means are 0): no score is shown for it"
        )
