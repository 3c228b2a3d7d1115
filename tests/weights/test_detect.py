"""The networks that judge images against PyTorch: every output with random weights; names, both ways; sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dreamjax.errors import UserError
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.weights import detect, weight_files
from tests import parity
from tests import torchvision_models as tv
from tests.transformers_models import compiled, count_torch, images


def load(module, **options):
    """Ours with the weights of `module`, found by their names; they come back bit by bit."""
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    found = detect.recognise(tensors, "file")
    network = found.kind.network
    params = network.table.to_dreamjax(found.tensors, network.shapes(found.arguments))
    parity.same_tensors(network.table.to_torch(params), network.table.named(tensors))
    return found.kind.key, network.bind(found.arguments | options, jax.tree.map(jnp.asarray, params))


def run(function, *inputs):
    return compiled(function)(*(jnp.asarray(x) for x in inputs))


# ------------------------------------------------------------------------------------------------------------- parity
@pytest.mark.parametrize("side", [224, 75])
def test_alexnet(side):
    module = tv.randomise(tv.alexnet(unit=4, classes=7))
    ours, pixels = images(side)
    key, model = load(module)
    with torch.no_grad():
        theirs = {"2": module.features[:5](pixels), "5": module.features[:12](pixels)}
    # channels last
    theirs = {name: value.permute(0, 2, 3, 1).flatten(1) for name, value in theirs.items()}
    assert (key, parity.report(run(model.features, ours), theirs) < 1e-5) == ("alexnet", True)


@pytest.mark.parametrize(
    ("fid", "classes", "key"),
    [(False, 1000, "inception"), pytest.param(True, 1008, "fid", marks=pytest.mark.long)],
)
def test_inception(fid, classes, key):
    """The two differ in what their pools do with the border: each agrees with its own alone."""
    module = tv.randomise(tv.Inception(unit=1, classes=classes, fid=fid, aux=not fid))
    ours, pixels = images((107, 139))
    found, model = load(module)
    assert found == key
    with torch.no_grad():
        theirs = module(pixels)
        logits = module.fc(theirs["2048"])
    mine = run(model.features, ours)
    mine = {name: mine[name] for name in theirs}
    parity.report(mine, theirs)
    parity.report({"logits": model.logits(mine["2048"])}, {"logits": logits})
    unbiased = logits - module.fc.bias
    parity.report({"unbiased": model.logits(mine["2048"], bias=False)}, {"unbiased": unbiased})
    other = tv.Inception(unit=1, classes=classes, fid=not fid).eval()
    other.load_state_dict(module.state_dict(), strict=False)
    with torch.no_grad():
        assert parity.difference(mine["2048"], other(pixels)["2048"]) > 1e-3


@pytest.mark.long
def test_efficientnet():
    module = tv.randomise(tv.EfficientNetB1(unit=2, classes=5))
    ours, pixels = images((64, 75))
    key, model = load(module)
    with torch.no_grad():
        theirs = {"features": module(pixels)}
    mine = {"features": run(model.features, ours)}
    assert (key, parity.report(mine, theirs) < parity.TOLERANCE) == ("efficientnet", True)


def test_resnet_of_swav_as_it_is_saved():
    """Under `module.`, beside a projection head and prototypes."""
    module = tv.randomise(tv.ResNet50(unit=4, swav=True))
    ours, pixels = images((64, 75))
    with torch.no_grad():
        theirs = module(pixels)
    key, model = load(torch.nn.DataParallel(module))
    parity.report({"features": run(model.features, ours)}, {"features": theirs})
    assert key == "resnet50"


def test_resnet_against_transformers():
    import transformers

    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[32, 64, 128, 256])
    theirs = tv.randomise(transformers.ResNetModel(config))
    names = {"embedder.embedder.convolution": "conv1", "embedder.embedder.normalization": "bn1"}
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        stem, _, leaf = name.rpartition(".")
        parts = stem.removeprefix("resnet.").split(".")
        if parts[0] == "encoder":  # encoder.stages.i.layers.j.(layer.k|shortcut).(convolution|normalization)
            norm = parts[-1] == "normalization"
            unit = (
                f"downsample.{int(norm)}" if "shortcut" in parts else f"{'bn' if norm else 'conv'}{int(parts[6]) + 1}"
            )
            stem = f"layer{int(parts[2]) + 1}.{parts[4]}.{unit}"
        else:
            stem = names[".".join(parts)]
        tensors[f"{stem}.{leaf}"] = tensor.numpy()
    found = detect.recognise(tensors, "file")
    params = found.kind.network.table.to_dreamjax(tensors, found.kind.network.shapes(found.arguments))
    model = found.kind.network.bind(found.arguments, jax.tree.map(jnp.asarray, params))
    ours, pixels = images(64)
    with torch.no_grad():
        features = theirs(pixels).pooler_output[:, :, 0, 0]
    parity.report({"features": run(model.features, ours)}, {"features": features})


# --------------------------------------------------------------------------------------------------------------- LPIPS
@pytest.mark.parametrize("whole", [True, False])
def test_lpips(whole):
    """From the package's whole module, and from its layers beside torchvision's network."""
    net, layers = tv.randomise(tv.alexnet(unit=2, classes=3)), tv.lpips_layers(unit=2)
    tensors = dict(net.state_dict()) | layers
    if whole:
        for k, place in enumerate(detect.CONVOLUTIONS):
            for leaf in ("weight", "bias"):
                tensors[f"net.slice{k + 1}.{place}.{leaf}"] = tensors.pop(f"features.{place}.{leaf}")
        tensors = {name: t for name, t in tensors.items() if not name.startswith("classifier")}
        tensors |= {f"lins.{k}.model.1.weight": layers[f"lin{k}.model.1.weight"] for k in range(5)}
        tensors["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
        assert detect.recognise(tensors, "file").kind.key == "lpips"
    assert detect.recognise(layers, "file").kind.key == "lpips_layers"
    tensors = {name: t.numpy() for name, t in tensors.items()}
    network = detect.LPIPS_NETWORK
    arguments = network.arguments(layers, "file")
    params = network.table.to_dreamjax(tensors, network.shapes(arguments))
    parity.same_tensors(network.table.to_torch(params), network.table.named(tensors))
    model = network.bind(arguments, jax.tree.map(jnp.asarray, params))
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 3, 64, 70, 3)).astype(np.float32)
    theirs = tv.lpips(net, layers, *(torch.from_numpy(x).permute(0, 3, 1, 2) for x in (a, b)))
    parity.report({"distance": run(model, a, b)}, {"distance": theirs})
    assert run(model, a, a).tolist() == [0, 0, 0]
    np.testing.assert_array_equal(run(model, b, a), run(model, a, b))
    with pytest.raises(UserError, match="at least 31 x 31 pixels, not of 30 x 70"):
        model(a[:, :30], b[:, :30])


# --------------------------------------------------------------------------------------------------------------- files
def test_detects_the_kind_independently_of_the_file_name(tmp_path):
    """Under a wrapper and a strange name; a ResNet of SwAV as `.pth.tar`."""
    module = tv.randomise(tv.alexnet(unit=1, classes=3))
    torch.save({"state_dict": module.state_dict()}, tmp_path / "a.pt")
    torch.save(torch.nn.DataParallel(tv.randomise(tv.ResNet50(unit=1, swav=True))).state_dict(), tmp_path / "b.pth.tar")
    save_file(tv.randomise(tv.EfficientNetB1(unit=1)).state_dict(), tmp_path / "c.safetensors")
    found = [
        detect.recognise(weight_files.open_weights(tmp_path / n), n) for n in ("a.pt", "b.pth.tar", "c.safetensors")
    ]
    assert [one.kind.key for one in found] == ["alexnet", "resnet50", "efficientnet"]
    assert found[0].arguments == {"unit": 1}


def test_rejects_other_files():
    vgg = {
        "features.0.weight": np.zeros((64, 3, 3, 3)),
        "features.10.weight": np.zeros(1),
        "classifier.6.weight": np.zeros(1),
    }
    with pytest.raises(
        UserError, match=r"vgg\.pth does not hold a known network for image metrics; accepted are .*AlexNet"
    ):
        detect.recognise(vgg, "vgg.pth")
    fresh = {name: t.numpy() for name, t in tv.ResNet50(unit=1).state_dict().items()}
    with pytest.raises(UserError, match="never trained"):
        detect.recognise(fresh, "fresh.pth")


def test_names_every_tensor_that_does_not_fit():
    tensors = {name: t.numpy() for name, t in tv.randomise(tv.ResNet50(unit=1)).state_dict().items()}
    del tensors["layer2.1.bn3.running_var"]
    tensors["layer3.6.conv1.weight"] = tensors["layer3.5.conv1.weight"]  # a ResNet-101 goes on here
    found = detect.recognise(tensors, "file")
    with pytest.raises(UserError) as caught:
        found.kind.network.table.to_dreamjax(tensors, found.kind.network.shapes(found.arguments))
    assert caught.value.missing == ["layer2.1.bn3.running_var"]
    assert caught.value.extra == ["layer3.6.conv1.weight"]


# --------------------------------------------------------------------------------------------------------------- sizes
AUXILIARY = 3_326_696  # of Inception's auxiliary classifier: 768·128 + 2·128 + 128·768·25 + 2·768 + 769·1000


@pytest.mark.parametrize(
    ("network", "arguments", "make", "expected", "classifier"),
    [
        (detect.ALEXNET, {}, tv.alexnet, 61_100_840, 9217 * 4096 + 4097 * 4096 + 4097 * 1000),
        (detect.INCEPTION, {}, tv.Inception, 27_161_264 - AUXILIARY, 0),
        (detect.EFFICIENTNET, {}, tv.EfficientNetB1, 7_794_184, 1281 * 1000),
        (detect.RESNET50, {}, tv.ResNet50, 25_557_032, 2049 * 1000),
        # the paper's 1,008 classes: 8 more rows of 2,049
        (detect.INCEPTION, {"classes": 1008, "fid": True}, lambda: tv.Inception(classes=1008, fid=True), 23_850_960, 0),
    ],
)
def test_sizes_of_the_published_networks(network, arguments, make, expected, classifier):
    """torchvision's counts, which are without running statistics; `classifier`: what is left out."""
    shapes = named_leaves(network.shapes(arguments))
    learned = [leaf for path, leaf in shapes.items() if path.rpartition("/")[2] not in ("mean", "var")]
    assert sum(int(np.prod(leaf.shape)) for leaf in learned) == expected - classifier
    assert expected == count_torch(lambda _: make(), None)
    assert count_torch(lambda _: tv.Inception(aux=True), None) == 27_161_264
