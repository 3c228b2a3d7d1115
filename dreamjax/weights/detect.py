"""Which network a file of PyTorch weights holds, found from the names and shapes of its tensors, not from its name.

found = judging.recognise(files.open_weights("alexnet-owt-7be5be79.pth"), "alexnet-owt-7be5be79.pth")
found.kind.key, found.arguments      # "alexnet", {"unit": 64, "classes": 1000}
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamjax.errors import UserError
from dreamjax.weights import alexnet, efficientnet, inception, resnet50
from dreamjax.weights.networks import Network

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """`has`: whether tensors (by their names without "module.") are of this kind. `files`: the published ones."""

    key: str
    title: str
    files: tuple[str, ...]
    network: Network
    has: Callable[[Tensors], bool]


@dataclass(frozen=True)
class Recognised:
    kind: Kind
    arguments: dict[str, Any]
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
    Kind("alexnet", "AlexNet", ("alexnet-owt-7be5be79.pth",), alexnet.NETWORK, _is_alexnet),
    Kind("inception", "Inception-v3", ("inception_v3_google-0cc3c7bd.pth",), inception.NETWORK, _is_inception(False)),
    Kind(
        "fid",
        "Inception of FID",
        ("pt_inception-2015-12-05-6726825d.pth",),
        inception.NETWORK,
        _is_inception(True),
    ),
    Kind(
        "efficientnet",
        "EfficientNet-B1",
        ("efficientnet_b1_rwightman-bac287d4.pth", "efficientnet_b1-c27df63c.pth"),
        efficientnet.NETWORK,
        _names("features.0.0.weight", "features.1.0.block.1.fc1.weight"),
    ),
    Kind(
        "resnet50",
        "ResNet-50",
        ("swav_800ep_pretrain.pth.tar",),
        resnet50.NETWORK,
        _names("conv1.weight", "layer1.0.conv3.weight", "layer3.5.conv3.weight"),
    ),
    Kind("lpips", "LPIPS on AlexNet", (), alexnet.LPIPS_NETWORK, _is_lpips(whole=True)),
    Kind("lpips_layers", "layers of LPIPS on AlexNet", ("alex.pth",), alexnet.LPIPS_NETWORK, _is_lpips(whole=False)),
)


def recognise(tensors: Tensors, source: str) -> Recognised:
    """Raises UserError for a file of another kind, and for a network that was never trained."""
    plain = {re.sub(r"^module\.", "", name): tensor for name, tensor in tensors.items()}
    for kind in KINDS:
        if kind.has(plain):
            _refuse_untrained(plain, source)
            return Recognised(kind, kind.network.arguments(plain, source), plain)
    accepted = ", ".join(f"{kind.title} ({' or '.join(kind.files)})" for kind in KINDS if kind.files)
    raise UserError(
        f"{source} holds none of the networks that judge images; accepted are the PyTorch files of {accepted}, and "
        f"folders of a CLIP, DINOv2 or ViT"
    )


def _refuse_untrained(tensors: Tensors, source: str) -> None:
    """Of normalisations whose statistics nothing has moved."""
    means = [name for name in tensors if name.endswith(".running_mean")]
    moved = any(np.any(np.asarray(tensors[name])) for name in means)
    if means and not moved:
        raise UserError(
            f"{source} is a network that was never trained (its running means are 0): no score is shown for it"
        )
