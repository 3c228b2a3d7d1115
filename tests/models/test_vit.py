"""ViT against transformers: classifier and encoder, random weights."""

import jax
import numpy as np
import pytest
import transformers

from dreamjax.errors import UserError
from dreamjax.weights import encoders, networks
from dreamjax.weights.table import WeightMismatch
from tests import parity
from tests import transformers_models as both

TINY = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
TINY |= {"intermediate_size": 20}


def with_logits(model, pixels):
    return both.outputs(model, pixels) | {"logits": both.compiled(model.logits)(pixels)}


@pytest.mark.parametrize("sizes", [{"num_labels": 5, "image_size": 30}, {"qkv_bias": False, "hidden_act": "relu"}])
def test_the_classifier_equals_transformers(sizes, tmp_path):
    module = parity.randomise(transformers.ViTForImageClassification(transformers.ViTConfig(**TINY | sizes)))
    ours, pixels = both.images(sizes.get("image_size", 28))
    model = both.load(module, tmp_path)
    found = with_logits(model, ours)
    assert both.agree(found, both.torch_outputs(module, pixels)) < 1e-5
    assert found["logits"].shape == (2, sizes.get("num_labels", 2))


@pytest.mark.parametrize(("pooler", "scan"), [(None, True), (8, False)])
def test_the_encoder_with_a_pooler_equals_transformers(pooler, scan, tmp_path):
    config = transformers.ViTConfig(**TINY, pooler_output_size=pooler, layer_norm_eps=1e-3)
    module = parity.randomise(transformers.ViTModel(config))
    ours, pixels = both.images(28)
    found = both.outputs(both.load(module, tmp_path, scan_layers=scan), ours)
    assert both.agree(found, both.torch_outputs(module, pixels)) < 1e-5


def test_an_encoder_without_a_pooler(tmp_path):
    """Its config does not tell: the missing tensors are named, and `pooler: 0` reads it."""
    module = parity.randomise(transformers.ViTModel(transformers.ViTConfig(**TINY), add_pooling_layer=False))
    config, tensors = parity.saved(module, tmp_path)
    network = networks.of(config, "config.json")
    arguments = network.arguments(config, "config.json")
    with pytest.raises(WeightMismatch, match=r"2 missing \(vit.pooler.dense.weight, vit.pooler.dense.bias\)"):
        network.table.to_dreamjax(tensors, network.shapes(arguments))
    arguments |= {"pooler": 0}
    params = network.table.to_dreamjax(tensors, network.shapes(arguments))
    ours, pixels = both.images(28)
    found = both.outputs(network.bind(arguments, jax.tree.map(np.asarray, params)), ours)
    both.agree(found, both.torch_outputs(module, pixels))


def test_images_of_another_size(tmp_path):
    module = parity.randomise(transformers.ViTForImageClassification(transformers.ViTConfig(**TINY)))
    ours, pixels = both.images((21, 70))
    with pytest.raises(UserError, match="takes images of 28 x 28 pixels, not of 21 x 70"):
        both.load(module, tmp_path)(ours)
    model = both.load(module, tmp_path, resize="bicubic")
    both.agree(with_logits(model, ours), both.torch_outputs(module, pixels, interpolate_pos_encoding=True))


@pytest.mark.parametrize("name", ["ViTModel", "ViTForImageClassification"])
def test_sizes_of_the_published_models(name):
    """ViT-B/16 with 1000 classes has 86,567,656 parameters (its paper: 86 M)."""
    config = transformers.ViTConfig(num_labels=1000)
    arguments = encoders.VIT.arguments(config.to_dict() | {"architectures": [name]}, "config.json")
    found = both.count(encoders.VIT.shapes(arguments))
    assert found == both.count_torch(getattr(transformers, name), config)
    assert name == "ViTModel" or found == 86_567_656
