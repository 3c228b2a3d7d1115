"""An exported folder computes in torch what dreamjax computes, where JAX cannot be imported."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

from dreamjax.errors import UserError
from dreamjax.export import driver, folders
from dreamjax.objectives.reconstruction_loss import ReconstructionConfig
from dreamjax.signals.datasets import augment
from dreamjax.systems import masked_pretraining, masked_torch

from .support import load_model_file, random_params, reference_reconstruction, reference_tokens, tiny_config, write


def test_the_difference_in_a_process_without_jax_is_at_most_1e_5(exported):
    folder, _, result = exported
    assert set(result.differences) == {"tokens", "pooled", "reconstruction"}
    assert max(result.differences.values()) <= 1e-5
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
        "modeling_dreamjax.py",
        "parity.safetensors",
    ]


def test_the_model_file_imports_torch_and_safetensors_alone(exported):
    """Run as a script where importing jax or dreamjax raises; it checks itself and exits 0."""
    script = (
        "import sys, runpy\n"
        "for name in ('jax', 'jaxlib', 'flax', 'dreamjax', 'ml_dtypes'): sys.modules[name] = None\n"
        f"runpy.run_path({str(exported[0] / 'modeling_dreamjax.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout)["differences"].values()) <= 1e-5


def test_a_changed_weight_is_noticed(exported, tmp_path):
    """The parity check can fail: one weight in a thousand changed by a hundredth."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(exported[0], tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["blocks.0.attn.qkv.weight"] = weights["blocks.0.attn.qkv.weight"].copy()
    weights["blocks.0.attn.qkv.weight"][0, 0] += 0.01
    save_file(weights, tmp_path / "out" / "model.safetensors")
    (tmp_path / "out" / "manifest.json").unlink()
    with (
        driver.comparison(folders.LAYOUTS["torch"]) as compare,
        pytest.raises(UserError, match="differs by"),
    ):
        compare(tmp_path / "out", masked_torch.CHECK, 1e-5)


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ({"scaling": "zscore", "clip": 0.0}, {"interpolation": "gaussian", "spectrum_points": 9}),
        ({"scaling": "robust", "clip": 1.5}, {"positions": "learned", "mlp_ratio": 1.3}),
        (
            {"scaling": "divide", "divide": 7.0, "clip": 2.0},
            {"decoder_depth": 0, "cls_token": False, "positions": "learned", "patch": 8},
        ),
    ],
)
def test_every_kind_of_model_and_scaling_agrees(tmp_path, data, model):
    config = tiny_config(data=data, **model)
    module = write(tmp_path / "out", config, random_params(config))
    differences = module.check_parity(tmp_path / "out")
    assert ("reconstruction" in differences) == (config.model.decoder_depth > 0)
    assert max(differences.values()) <= 1e-5


def test_padding_is_left_out_as_dreamjax_leaves_it_out(tmp_path):
    config = tiny_config(data={"scaling": "zscore"})
    params = random_params(config)
    model = write(tmp_path / "out", config, params).MaskedAutoencoder.from_pretrained(tmp_path / "out")
    x = 20 * np.random.default_rng(0).standard_normal((2, 19, 64)).astype(np.float32)
    valid = np.ones((2, 64), np.float32)
    valid[1, 40:] = 0
    x[1, :, 40:] = 0
    signal, _, _ = augment.in_units(x, np.ones(2, np.float32), valid > 0, "zscore", 1.0, config.data.clip)
    tokens = jax.jit(lambda p, s, v: masked_pretraining.features(config, p, s, v))(params, signal, valid)
    ok = valid.reshape(2, -1, 4).min(2) > 0
    pooled = np.asarray(masked_pretraining.pooled(tokens, ok))
    with torch.no_grad():
        found = model(torch.from_numpy(x), valid=torch.from_numpy(valid), return_features=True)
    np.testing.assert_allclose(found["pooled"].numpy(), pooled, atol=1e-5 * np.abs(pooled).max())
    np.testing.assert_allclose(found["features"].numpy()[ok], np.asarray(tokens)[ok], atol=1e-4)


def test_the_torch_model_is_torchs_own_transformer(exported):
    """The encoder and the masked autoencoder of the exported file against nn.TransformerEncoderLayer."""
    model = load_model_file(exported[0]).MaskedAutoencoder.from_pretrained(exported[0])
    state = model.state_dict()
    x = 20 * torch.randn(2, 19, 64, generator=torch.Generator().manual_seed(0))
    scaled, gain, _ = model.scaled(x, scale=15.0)
    keep = [1, 2, 7, 12]
    masked = torch.ones(2, 16, dtype=torch.bool)
    masked[:, keep] = False
    with torch.no_grad():
        tokens = model(x, scale=15.0, return_features=True)
        filled = model.reconstruct(x, masked, scale=15.0)
    expected = reference_tokens(state, scaled, heads=2)
    torch.testing.assert_close(
        torch.cat([tokens["cls_token"][:, None], tokens["features"]], 1), expected, rtol=0, atol=2e-5
    )
    expected = reference_reconstruction(state, scaled, keep, heads=2, decoder_heads=2) * gain[:, :, None]
    torch.testing.assert_close(filled, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_model_of_normalised_targets_exports_its_encoder_and_refuses_to_reconstruct(tmp_path):
    config = replace(tiny_config(), loss=ReconstructionConfig(target="patch_normalised"))
    module = write(tmp_path / "out", config, random_params(config))
    assert set(module.check_parity(tmp_path / "out")) == {"tokens", "pooled"}
    model = module.MaskedAutoencoder.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="normalised targets"):
        model.reconstruct(torch.zeros(1, 19, 64), torch.zeros(1, 16, dtype=bool))
