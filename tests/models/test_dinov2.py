"""DINOv2 against transformers: every output, every variant, random weights."""

import numpy as np
import pytest
import torch
import transformers

from dreamjax.errors import UserError
from dreamjax.models.encoders import mlp_width, resample
from dreamjax.weights import encoders
from tests import parity
from tests import transformers_models as both

TINY = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
PLAIN, REGISTERS = "Dinov2Model", "Dinov2WithRegistersModel"


def make(name, **sizes):
    return parity.randomise(getattr(transformers, name)(getattr(transformers, f"{name[:-5]}Config")(**TINY | sizes)))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        (PLAIN, {"layer_norm_eps": 1e-3}),
        (PLAIN, {"use_swiglu_ffn": True, "use_mask_token": False, "mlp_ratio": 3}),
        (PLAIN, {"qkv_bias": False, "hidden_act": "gelu_pytorch_tanh", "mlp_ratio": 2}),
        (REGISTERS, {"num_register_tokens": 3}),
        (REGISTERS, {"use_swiglu_ffn": True}),
    ],
)
def test_every_variant_equals_transformers(name, sizes, tmp_path):
    module = make(name, **sizes)
    ours, pixels = both.images(28)
    model = both.load(module, tmp_path)
    found = both.outputs(model, ours)
    assert both.agree(found, both.torch_outputs(module, pixels)) < 1e-5
    tokens = found["last_hidden_state"]
    registers = sizes.get("num_register_tokens", 4) if name == REGISTERS else 0
    assert tokens.shape == (2, 1 + registers + 16, 12)
    patches = tokens[:, 1 + registers :]
    np.testing.assert_allclose(model.pool(tokens, "patches"), patches.mean(1), rtol=1e-5, atol=1e-6)


# smaller, larger, not square, as many patches in another shape, sides that patches do not fill
@pytest.mark.parametrize("size", [(14, 14), (63, 63), (21, 70), (14, 56), (33, 30)])
@pytest.mark.parametrize("name", [PLAIN, REGISTERS])
def test_images_of_any_size(name, size, tmp_path):
    module = make(name, num_hidden_layers=1)
    ours, pixels = both.images(size, batch=1)
    model = both.load(module, tmp_path)
    with torch.no_grad():
        expected = module.embeddings(pixels)
    assert parity.report({"embeddings": both.compiled(model.embed)(ours)}, {"embeddings": expected}) < 1e-5


@pytest.mark.parametrize("antialias", [False, True])
def test_resampling_equals_torch(antialias):
    """Large grids and ratios; DINOv2's own is 37 x 37 patches at 518 pixels, and 16 x 16 at 224."""
    for (h, w), size in [((37, 37), (16, 16)), ((37, 37), (64, 23)), ((5, 9), (1, 40)), ((16, 16), (16, 16))]:
        grid = np.random.default_rng(h).normal(size=(h, w, 4)).astype(np.float32)
        found = resample(grid, size, "bicubic_antialias" if antialias else "bicubic")
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(grid.transpose(2, 0, 1))[None], size, mode="bicubic", antialias=antialias
        )
        np.testing.assert_allclose(found, expected[0].permute(1, 2, 0), rtol=0, atol=2e-5)


def test_scanned_is_unrolled(tmp_path):
    module = make(REGISTERS)
    ours, pixels = both.images(28)
    model = both.load(module, tmp_path, scan_layers=False)  # elsewhere it is scanned
    both.agree(both.outputs(model, ours), both.torch_outputs(module, pixels))


def test_rejects_images_of_unsupported_sizes(tmp_path):
    model = both.load(make(PLAIN, num_hidden_layers=1), tmp_path)
    with pytest.raises(UserError, match="an image of 28 x 6 pixels is smaller than one patch of 7 x 7"):
        model(np.zeros((1, 28, 6, 3), np.float32))
    with pytest.raises(UserError, match=r"have the shape \(batch, height, width, 3\), not \(28, 28, 3\)"):
        model(np.zeros((28, 28, 3), np.float32))


S, B, L = ((384, 12, 6), (768, 12, 12), (1024, 24, 16))


@pytest.mark.parametrize("name", [PLAIN, REGISTERS])
@pytest.mark.parametrize(("width", "depth", "heads"), [S, B, L, (1536, 40, 24)])
def test_sizes_of_the_published_models(name, width, depth, heads):
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "patch_size": 14}
    sizes |= {"image_size": 518, "use_swiglu_ffn": width == 1536}
    arguments = encoders.DINOV2.arguments(sizes | {"architectures": [name]}, "config.json")
    config = getattr(transformers, f"{name[:-5]}Config")(**sizes)
    assert both.count(encoders.DINOV2.shapes(arguments)) == both.count_torch(getattr(transformers, name), config)


def test_the_hidden_width_of_g():
    """4096, as the paper's SwiGLU has it."""
    assert mlp_width(1536, 4, swiglu=True) == 4096
