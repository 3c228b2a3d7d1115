"""Networks in one file of weights as targets: every layer against PyTorch, parameter counts, and their banks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dreamjax.errors import UserError
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.storage import image_files
from dreamjax.targets import network_files
from dreamjax.targets.banks import BankConfig, open_bank
from dreamjax.weights import image_networks
from tests import parity
from tests import torchvision_models as tv
from tests.clip_resnet_twin import CLIPResNet
from tests.transformers_models import compiled, count_torch, images

NAMES = ("one.png", "two.png")


def load(module: torch.nn.Module) -> tuple[str, Any]:
    """Return (title, ours) with the weights of `module`, by their names; they come back bit by bit."""
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    title = image_networks.recognise(tensors)
    assert title is not None
    network, _ = image_networks.NETWORKS[title]
    arguments = network.arguments(tensors, "file")
    params = network.table.to_dreamjax(tensors, network.shapes(arguments))
    parity.same_tensors(network.table.to_torch(params), network.table.named(tensors))
    return title, network.bind(arguments, jax.tree.map(jnp.asarray, params))


def every_layer(model: Any, count: int, pixels: np.ndarray) -> dict[str, Any]:
    def run(x: jax.Array) -> dict[str, jax.Array]:
        return {str(i): model.layer(x, i) for i in range(count)} | {"output": model.features(x)}

    outputs = compiled(run)(jnp.asarray(pixels))
    return {name: outputs[name] for name in (*map(str, range(count)), "output")}


def channels_last(outputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {str(i): x.permute(0, 2, 3, 1) if x.ndim == 4 else x for i, x in enumerate(outputs)}


DEPTHS = [(2, 1, 1, 1), pytest.param((3, 4, 23, 3), marks=pytest.mark.long)]


@pytest.mark.parametrize("depths", DEPTHS)
def test_every_stage_of_a_resnet_equals_torchvision(depths: tuple) -> None:
    module = tv.randomise(tv.ResNet50(unit=2, classes=3, depths=depths))
    ours, pixels = images((64, 75))
    with torch.no_grad():
        theirs = channels_last(module.stages(pixels)) | {"output": module(pixels)}
    title, model = load(module)
    assert title == "ResNet"
    parity.report(every_layer(model, 5, ours), theirs)


@pytest.mark.parametrize("depths", DEPTHS)
def test_every_stage_of_a_clip_resnet_and_its_pool_equal_pytorch(depths: tuple) -> None:
    module = tv.randomise(CLIPResNet(unit=4, image=64, projection=6, depths=depths))
    ours, pixels = images(64)
    with torch.no_grad():
        theirs = channels_last(module.stages(pixels)) | {"output": module(pixels)}
    title, model = load(module)
    assert title == "CLIP's ResNet"
    parity.report(every_layer(model, 5, ours), theirs)
    with pytest.raises(UserError, match="images of 64 pixels a side"):
        model.features(jnp.zeros((1, 96, 96, 3)))


def test_every_layer_of_vgg_equals_torchvision() -> None:
    module = tv.randomise(tv.vgg19(unit=1, classes=5))
    ours, x = images(224, batch=1)
    theirs = []
    with torch.no_grad():
        for part in [*module.features, torch.nn.Flatten(), *module.classifier]:
            x = part(x)
            if isinstance(part, torch.nn.ReLU | torch.nn.MaxPool2d):
                theirs.append(x)
    title, model = load(module)
    assert title == "VGG-19"
    parity.report(every_layer(model, 24, ours), channels_last([*theirs, x]) | {"output": x})
    with pytest.raises(UserError, match="224 x 224"):
        model.layer(jnp.zeros((1, 96, 96, 3)), 21)
    with pytest.raises(UserError, match="VGG-19 has 0 to 23, or -24 to -1"):
        model.layer(jnp.zeros((1, 96, 96, 3)), 24)


@pytest.mark.parametrize(
    ("title", "arguments", "make", "expected", "left_out"),
    [
        ("ResNet", {"depths": (3, 4, 23, 3)}, lambda: tv.ResNet50(depths=(3, 4, 23, 3)), 44_549_160, 2049 * 1000),
        ("VGG-19", {}, tv.vgg19, 143_667_240, 0),
        ("CLIP's ResNet", {}, CLIPResNet, 38_316_896 + 57, 57),  # with our twin's trace of a text half
    ],
)
def test_sizes_of_the_published_networks(
    title: str, arguments: dict, make: Callable[[], torch.nn.Module], expected: int, left_out: int
) -> None:
    network, _ = image_networks.NETWORKS[title]
    leaves = jax.tree_util.tree_leaves_with_path(network.shapes(arguments))
    learned = [leaf for path, leaf in leaves if path[-1].key not in ("mean", "var")]
    assert sum(int(np.prod(leaf.shape)) for leaf in learned) == expected - left_out
    assert count_torch(lambda _: make(), None) == expected


# ---------------------------------------------------------------------------------------------------------------- banks
@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, name in enumerate(NAMES):
        image = np.random.default_rng(number).integers(0, 256, (40, 56, 3), np.uint8)
        image_files.write_png(folder / name, image)
    return folder


def opened(path: Path, folder: Path, tmp_path: Path, **options: Any) -> np.ndarray:
    config = BankConfig(path=str(path), images=str(folder), bank=str(tmp_path / "bank"), **options)
    assert config.has_layers
    return open_bank(config, NAMES, meshes.make(MeshConfig())).vectors


def transformed(name: Path, edge: int, side: int, filter: Any, mean: tuple, std: tuple) -> torch.Tensor:
    """Return pixels as torchvision's Resize(edge) and CenterCrop(side) of a Pillow image make them."""
    image = Image.open(name)
    W, H = image.size
    image = image.resize((int(edge * W / H), edge), filter)
    left, top = round((image.size[0] - side) / 2), round((edge - side) / 2)
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return torch.from_numpy((pixels - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)


def test_a_bank_of_a_resnet_sees_the_evaluation_transform(folder: Path, tmp_path: Path) -> None:
    module = tv.randomise(tv.ResNet50(unit=1, classes=3, depths=(1, 1, 1, 1)))
    torch.save({"state_dict": torch.nn.DataParallel(module).state_dict()}, tmp_path / "net.pth.tar")
    normal = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        pixels = [transformed(folder / name, 256, 224, Image.Resampling.BILINEAR, *normal) for name in NAMES]
        stages = module.stages(torch.stack(pixels))
    mean = opened(tmp_path / "net.pth.tar", folder, tmp_path, layer=2)
    assert parity.difference(mean, stages[2].mean((2, 3))) < 1e-4
    every = opened(tmp_path / "net.pth.tar", folder, tmp_path, layer=2, pooling="tokens")
    assert parity.difference(every, stages[2].permute(0, 2, 3, 1).flatten(1)) < 1e-4


def test_a_bank_of_a_clip_resnet_is_its_projection(folder: Path, tmp_path: Path) -> None:
    module = tv.randomise(CLIPResNet(unit=4, image=64, projection=6, depths=(1, 1, 1, 1)))
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    normal = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    with torch.no_grad():
        pixels = [transformed(folder / name, 64, 64, Image.Resampling.BICUBIC, *normal) for name in NAMES]
        theirs = module(torch.stack(pixels))
    assert parity.difference(opened(tmp_path / "net.safetensors", folder, tmp_path), theirs) < 1e-4
    with pytest.raises(UserError, match="choose patches or tokens or projected"):
        opened(tmp_path / "net.safetensors", folder, tmp_path, pooling="cls")


def test_refuses_weights_of_other_networks(folder: Path, tmp_path: Path) -> None:
    torch.save({"other.weight": torch.zeros(3, 3)}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net\.pth does not hold MobileNet v1, VGG-19, ResNet, CLIP's ResNet"):
        opened(tmp_path / "net.pth", folder, tmp_path)
    names = {name: torch.zeros(()) for name in image_networks.NETWORKS["VGG-19"][1]}
    torch.save(names, tmp_path / "vgg.pth")
    with pytest.raises(UserError, match="names of VGG-19, but other shapes"):
        opened(tmp_path / "vgg.pth", folder, tmp_path)
    assert network_files.title_of(tmp_path / "absent.pth") is None  # type: ignore[arg-type]
