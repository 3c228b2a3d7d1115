"""Convolutional networks in one file of weights, of which any layer can be a target: what a file holds, their names.

network = image_networks.recognise(tensors)                     # None for other arrays
params = network.table.to_dreamjax(tensors, network.shapes(network.arguments(tensors, source)))
"""

import math
import re
from collections.abc import Collection, Mapping

from dreamjax.models.clip_resnet import STRIDE, CLIPResNet
from dreamjax.models.image_classifiers import VGG19, VGG_STAGES, ResNet
from dreamjax.models.mobilenet import LAYERS, MobileNet
from dreamjax.weights import detect, open_clip
from dreamjax.weights.config_json import Arguments
from dreamjax.weights.networks import Network
from dreamjax.weights.table import IDENTITY, Table, Tensors, Transform, conv_norm, layers

# (out, h, w, in) and (1, h, w, channels) of TensorFlow Lite ⇄ (h, w, in, out)
POINTWISE, DEPTHWISE = (Transform(lambda rank, axes=axes: axes) for axes in ((1, 2, 3, 0), (1, 2, 0, 3)))  # type: ignore[misc]
MOBILENET_TABLE = Table(
    *(
        (f"{i:02d}_dw_w", f"layers/{i}/conv/kernel", DEPTHWISE)
        if i % 2
        else (f"{i:02d}_pw_w", f"layers/{i}/conv/kernel", POINTWISE)
        for i in range(LAYERS)
    ),
    *((f"{i:02d}_b", f"layers/{i}/conv/bias", IDENTITY) for i in range(LAYERS)),
)


def _vgg_names() -> list[tuple[str, str]]:
    """Return the place of each convolution in torchvision's `features`, where each has a ReLU after it, and ours."""
    names: list[tuple[str, str]] = []
    place = 0
    for _, count in VGG_STAGES:
        for _ in range(count):
            names.append((str(place), str(len(names))))
            place += 2
        place += 1  # the pool
    return names


VGG19_TABLE = Table(
    *layers("features", "convolutions", *_vgg_names()),
    *layers("classifier", "dense", ("0", "0"), ("3", "1"), ("6", "2")),
    aliases=(detect.PARALLEL,),
)
_BLOCK = {"unit1": ("conv1", "bn1"), "unit2": ("conv2", "bn2"), "unit3": ("conv3", "bn3")}
_BLOCK |= {"shortcut": ("downsample.0", "downsample.1")}
_ATTENTION = (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("c_proj", "proj"))
CLIP_RESNET_TABLE = Table(
    *(row for i in range(3) for row in conv_norm(f"visual.conv{i + 1}", f"visual.bn{i + 1}", f"stem/{i}")),
    *(
        row
        for k in range(4)
        for unit, (conv, bn) in _BLOCK.items()
        for row in conv_norm(
            f"visual.layer{k + 1}.{{i}}.{conv}", f"visual.layer{k + 1}.{{i}}.{bn}", f"layers/{k}/{{i}}/{unit}"
        )
    ),
    ("visual.attnpool.positional_embedding", "pool/pos_embed", IDENTITY),
    *layers("visual.attnpool", "pool", *_ATTENTION),
    aliases=(detect.PARALLEL,),
    ignored=rf"{open_clip.TEXT_HALF}|input_resolution|context_length|vocab_size|.*\.num_batches_tracked",
)


def _depths(tensors: Tensors, prefix: str = "") -> tuple[int, ...]:
    matches = [re.match(rf"{prefix}layer(\d)\.(\d+)\.", name) for name in tensors]
    blocks = {(int(match[1]), int(match[2])) for match in matches if match}
    return tuple(sum(stage == k for stage, _ in blocks) for k in range(1, 5))


def _resnet_arguments(tensors: Tensors, source: str) -> Arguments:
    return {"unit": tensors["conv1.weight"].shape[0], "depths": _depths(tensors)}


def _clip_resnet_arguments(tensors: Tensors, source: str) -> Arguments:
    positions = tensors["visual.attnpool.positional_embedding"].shape[0] - 1
    return {
        "unit": tensors["visual.conv3.weight"].shape[0],
        "depths": _depths(tensors, r"visual\."),
        "image": STRIDE * math.isqrt(positions),
        "projection": tensors["visual.attnpool.c_proj.weight"].shape[0],
    }


def _vgg_arguments(tensors: Tensors, source: str) -> Arguments:
    return {"unit": tensors["features.0.weight"].shape[0], "classes": tensors["classifier.6.weight"].shape[0]}


MOBILENET = Network(MobileNet, lambda tensors, source: {"unit": tensors["00_pw_w"].shape[0]}, MOBILENET_TABLE)
VGG19_NETWORK = Network(VGG19, _vgg_arguments, VGG19_TABLE)
RESNET = Network(ResNet, _resnet_arguments, detect.RESNET50_TABLE)
CLIP_RESNET = Network(CLIPResNet, _clip_resnet_arguments, CLIP_RESNET_TABLE)

NETWORKS: Mapping[str, tuple[Network, tuple[str, ...]]] = {  # title → network, names of tensors that only it has
    "MobileNet v1": (MOBILENET, ("00_pw_w",)),
    "VGG-19": (VGG19_NETWORK, ("features.0.weight", "features.34.weight", "classifier.6.weight")),
    "ResNet": (RESNET, ("conv1.weight", "layer1.0.conv3.weight", "layer4.0.downsample.0.weight")),
    "CLIP's ResNet": (CLIP_RESNET, ("visual.conv3.weight", "visual.attnpool.c_proj.weight")),
}


def recognise(names: Collection[str]) -> str | None:
    """Return the title in `NETWORKS` of the network whose tensors have such names (without "module."), or None."""
    return next((title for title, (_, wanted) in NETWORKS.items() if all(name in names for name in wanted)), None)
