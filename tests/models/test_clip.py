"""CLIP's text and vision model against transformers: every output, every variant, random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from dreamjax.errors import UserError
from dreamjax.weights import encoders, networks
from tests import parity
from tests import transformers_models as both

EOS = 49
TINY = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 12, "intermediate_size": 20}
TEXT = TINY | {"vocab_size": 50, "max_position_embeddings": 9, "projection_dim": 7, "eos_token_id": EOS}
TEXT |= {"bos_token_id": 48, "pad_token_id": 0}
VISION = TINY | {"image_size": 28, "patch_size": 7, "projection_dim": 5}
# two texts: the end token in the middle and twice, as padding is; and at the end of the second
IDS = np.array([[48, 3, 17, 30, EOS, EOS, EOS], [48, 44, 8, 9, 40, 41, EOS]], np.int32)


def torch_text_outputs(module, ids=IDS, mask=None):
    options = {} if mask is None else {"attention_mask": torch.from_numpy(mask).long()}
    return both.torch_outputs(module, torch.from_numpy(ids).long(), **options)


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("CLIPTextModel", "quick_gelu"),
        ("CLIPTextModel", "gelu"),
        ("CLIPTextModelWithProjection", "gelu"),
    ],
)
def test_text_equals_transformers(name, act, tmp_path):
    config = transformers.CLIPTextConfig(**TEXT, hidden_act=act, layer_norm_eps=1e-3)
    module = parity.randomise(getattr(transformers, name)(config))
    model = both.load(module, tmp_path)
    assert both.agree(both.outputs(model, IDS), torch_text_outputs(module)) < 1e-5


def test_the_old_end_token_is_the_largest_id(tmp_path):
    """Configs before transformers 4.31 say 2, which no tokenizer of CLIP writes."""
    config = transformers.CLIPTextConfig(**TEXT | {"eos_token_id": 2})
    module = parity.randomise(transformers.CLIPTextModel(config))
    ids = np.array([[48, 3, 17, 30, 2, 40, 2], [45, 44, 2, 49, 40, 49, 3]], np.int32)
    both.agree(both.outputs(both.load(module, tmp_path), ids), torch_text_outputs(module, ids))


def test_padding_is_not_attended_to(tmp_path):
    module = parity.randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)))
    mask = np.array([[True] * 5 + [False] * 2, [True, True, False, True, True, True, True]])
    model = both.load(module, tmp_path)
    both.agree(both.outputs(model, IDS, mask), torch_text_outputs(module, mask=mask))
    assert parity.difference(both.outputs(model, IDS)["pooled"], torch_text_outputs(module, mask=mask)["pooled"]) > 1e-3


def test_a_text_of_all_positions_and_one_too_many(tmp_path):
    module = parity.randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)))
    ids = np.random.default_rng(0).integers(0, 50, (2, 9)).astype(np.int32)
    model = both.load(module, tmp_path)
    both.agree(both.outputs(model, ids), torch_text_outputs(module, ids))
    with pytest.raises(UserError, match="a text of 10 tokens is too long for this network, which has 9 positions"):
        model(np.zeros((1, 10), np.int32))
    with pytest.raises(UserError, match="hidden state 4 does not exist; this model has 0 to 3, or -4 to -1"):
        model.hidden_state(ids, 4)


@pytest.mark.parametrize(
    ("name", "act", "image"),
    [
        ("CLIPVisionModel", "quick_gelu", 31),
        ("CLIPVisionModelWithProjection", "quick_gelu", 28),
        ("CLIPVisionModelWithProjection", "gelu", 28),
    ],
)
def test_vision_equals_transformers(name, act, image, tmp_path):
    """31 pixels are four patches of 7 and three pixels that no patch sees."""
    config = transformers.CLIPVisionConfig(**VISION | {"image_size": image}, hidden_act=act, layer_norm_eps=1e-3)
    module = parity.randomise(getattr(transformers, name)(config))
    ours, pixels = both.images(image)
    model = both.load(module, tmp_path)
    found = both.outputs(model, ours)
    assert both.agree(found, both.torch_outputs(module, pixels)) < 1e-5
    tokens = found["hidden_states.2"]
    assert model.pool(tokens, "tokens").shape == (2, 17, 12)
    np.testing.assert_array_equal(model.pool(tokens, "cls"), tokens[:, 0])
    np.testing.assert_allclose(model.pool(tokens, "patches"), np.mean(tokens[:, 1:], axis=1), rtol=1e-5, atol=1e-6)


def test_images_of_another_size(tmp_path):
    """Refused by default; with `resize` as transformers' `interpolate_pos_encoding`."""
    module = parity.randomise(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)))
    ours, pixels = both.images((35, 49))
    with pytest.raises(UserError, match="takes images of 28 x 28 pixels, not of 35 x 49"):
        both.load(module, tmp_path)(ours)
    with pytest.raises(UserError, match=r"shape \(batch, height, width, 3\), not \(2, 3, 35, 49\)"):
        both.load(module, tmp_path)(np.asarray(pixels))
    model = both.load(module, tmp_path, resize="bicubic")
    both.agree(both.outputs(model, ours), both.torch_outputs(module, pixels, interpolate_pos_encoding=True))


@pytest.mark.parametrize("half", ["text", "vision"])
def test_either_half_of_a_whole_model(half, tmp_path):
    """CLIPModel's file and nested config, whose `projection_dim` counts, not the halves'."""
    text, vision = (transformers.CLIPTextConfig(**TEXT), transformers.CLIPVisionConfig(**VISION))
    whole = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=6)
    module = parity.randomise(transformers.CLIPModel(whole))
    config, tensors = parity.saved(module, tmp_path)
    network = networks.of(config, "config.json", half)
    with pytest.raises(UserError, match="a CLIPModel, of which dreamjax reads the text or the vision half; choose one"):
        networks.of(config, "config.json")
    arguments = network.arguments(config, "config.json")
    assert arguments["projection"] == 6
    params = network.table.to_dreamjax(tensors, network.shapes(arguments))
    parity.same_tensors(network.table.to_torch(params), network.table.named(tensors))
    model = network.bind(arguments, params)
    ours, pixels = both.images(28)
    with torch.no_grad():
        if half == "text":
            features = module.get_text_features(torch.from_numpy(IDS).long()).pooler_output
        else:
            features = module.get_image_features(pixels).pooler_output
    found = both.compiled(model.__call__)(IDS if half == "text" else ours)
    parity.report({"features": found.projected}, {"features": features})


@pytest.mark.parametrize(("scan", "attention"), [(True, "xla"), (False, "xla"), (False, "saved")])
def test_every_way_to_compute_is_the_same(scan, attention, tmp_path):
    module = parity.randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)))
    options = {"scan_layers": scan, "attention": attention, "remat": "full" if scan else "none"}
    model = both.load(module, tmp_path, **options)
    mask = np.array([[True] * 5 + [False] * 2, [True] * 7])
    both.agree(both.outputs(model, IDS, mask), torch_text_outputs(module, mask=mask))


def test_bfloat16_computes_with_float32_parameters(tmp_path):
    module = parity.randomise(transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION)))
    ours, pixels = both.images(28)
    model = both.load(module, tmp_path, dtype=jnp.bfloat16)
    found = both.outputs(model, ours)
    assert found["projected"].dtype == found["hidden_states.0"].dtype == jnp.bfloat16
    both.agree(found, both.torch_outputs(module, pixels), tolerance=0.03)


# widths, depths and heads of the published models
L14_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
L14_VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
L14_VISION |= {"patch_size": 14, "projection_dim": 768}
H14_TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "projection_dim": 1024}
H14_TEXT |= {"num_hidden_layers": 24, "hidden_act": "gelu"}
SD2_TEXT = H14_TEXT | {"num_hidden_layers": 23}
H14_VISION = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
H14_VISION |= {"patch_size": 14, "projection_dim": 1024, "hidden_act": "gelu"}
BIGG_TEXT = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "projection_dim": 1280}
BIGG_TEXT |= {"num_hidden_layers": 32, "hidden_act": "gelu"}
BIGG_VISION = {"hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48, "num_attention_heads": 16}
BIGG_VISION |= {"patch_size": 14, "projection_dim": 1280, "hidden_act": "gelu"}


@pytest.mark.parametrize(
    ("name", "sizes", "parameters"),
    [
        ("CLIPTextModel", L14_TEXT, 123_060_480),
        ("CLIPVisionModelWithProjection", L14_VISION, 303_966_208),
        ("CLIPTextModel", SD2_TEXT, None),
        ("CLIPTextModelWithProjection", H14_TEXT, None),
        ("CLIPVisionModelWithProjection", H14_VISION, None),
        ("CLIPTextModelWithProjection", BIGG_TEXT, None),
        ("CLIPVisionModelWithProjection", BIGG_VISION, None),
    ],
)
def test_sizes_of_the_published_models(name, sizes, parameters):
    kind = transformers.CLIPTextConfig if "Text" in name else transformers.CLIPVisionConfig
    network = encoders.CLIP_TEXT if "Text" in name else encoders.CLIP_VISION
    arguments = network.arguments(sizes | {"architectures": [name]}, "config.json")
    found = both.count(network.shapes(arguments))
    assert found == both.count_torch(getattr(transformers, name), kind(**sizes))
    assert parameters in (None, found)


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_gradients_equal_those_of_torch(remat, tmp_path):
    """Of every parameter, by the names of the table."""
    module = parity.randomise(transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**TEXT)))
    module(torch.from_numpy(IDS).long()).text_embeds.square().sum().backward()
    graph, params = nnx.split(both.load(module, tmp_path, remat=remat), nnx.Param)

    def loss(params):
        return jnp.sum(jnp.square(nnx.merge(graph, params)(IDS).projected))

    grads = encoders.CLIP_TEXT_TABLE.to_torch(nnx.to_pure_dict(both.compiled(jax.grad(loss))(params)))
    expected = {name: parameter.grad for name, parameter in module.named_parameters()}
    for name, grad in expected.items():  # that of a bias of keys is zero but for rounding: softmax does not see it
        np.testing.assert_allclose(
            grads[name], grad, rtol=1e-4, atol=2e-5 * float(grad.abs().max()) + 1e-5, err_msg=name
        )
    assert grads.keys() == expected.keys()
