"""Weights are written byte for byte as diffusers and transformers write them."""

import json
import os

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from dreamjax.errors import UserError
from dreamjax.weights.weight_files import copy_component, open_weights, write_safetensors

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"


def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=6, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(8,), layers_per_block=1, norm_num_groups=2, sample_size=8)


def text_encoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=99, max_position_embeddings=7, **sizes))


def arrays(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if "config" not in path.name}


@pytest.mark.parametrize("limit", [10**10, 20_000, 3000], ids=["one file", "shards", "tensors above the limit"])
@pytest.mark.parametrize("make", [unet, autoencoder])
def test_files_and_index_equal_those_of_diffusers(make, limit, tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "theirs", safe_serialization=True, max_shard_size=limit)
    files = write_safetensors(tmp_path / "ours", DIFFUSERS, arrays(model), max_shard_bytes=limit)
    assert sorted(files) == sorted(contents(tmp_path / "theirs"))
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


@pytest.mark.parametrize("limit", [10**10, 2000], ids=["one file", "shards"])
def test_files_equal_those_of_transformers(limit, tmp_path):
    model = text_encoder()
    model.save_pretrained(tmp_path / "theirs", max_shard_size=limit)
    write_safetensors(tmp_path / "ours", TRANSFORMERS, arrays(model), max_shard_bytes=limit)
    ours, theirs = contents(tmp_path / "ours"), contents(tmp_path / "theirs")
    index = "model.safetensors.index.json"
    if limit == 2000:
        found, wanted = json.loads(ours.pop(index)), json.loads(theirs.pop(index))
        assert wanted["metadata"].pop("total_parameters") == model.num_parameters()  # transformers' own addition
        assert found == wanted
    assert ours == theirs


def test_what_is_written_is_what_is_read(tmp_path):
    unet().save_pretrained(tmp_path / "theirs")
    write_safetensors(tmp_path / "ours", DIFFUSERS, open_weights(tmp_path / "theirs"), max_shard_bytes=20_000)
    found, wanted = open_weights(tmp_path / "ours"), open_weights(tmp_path / "theirs")
    assert {k: np.asarray(v).tobytes() for k, v in found.items()} == {
        k: np.asarray(v).tobytes() for k, v in wanted.items()
    }


def test_one_tensor_at_a_time_is_asked_for(tmp_path):
    alive = []

    class Watched(np.ndarray):
        def __del__(self):
            alive.pop()

    class Lazy:
        shape, dtype = (4,), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            alive.append(1)
            assert len(alive) == 1
            return np.ones(4, np.float32).view(Watched)

    write_safetensors(tmp_path, TRANSFORMERS, {str(k): Lazy() for k in range(9)})
    assert len(load_file(tmp_path / "model.safetensors")) == 9


def test_weights_are_written_into_an_object_store(object_store, tmp_path):
    files = write_safetensors(object_store / "out", DIFFUSERS, arrays(unet()), max_shard_bytes=20_000)
    write_safetensors(tmp_path, DIFFUSERS, arrays(unet()), max_shard_bytes=20_000)
    assert {f.name: f.read_bytes() for f in (object_store / "out").iterdir()} == contents(tmp_path)
    assert files[-1] == "diffusion_pytorch_model.safetensors.index.json"


def test_a_component_is_copied_byte_for_byte_out_of_a_cache_of_links(tmp_path):
    source, blobs = tmp_path / "snapshot" / "vae", tmp_path / "blobs"
    blobs.mkdir()
    (source / "more").mkdir(parents=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors", "more/notes.txt"):
        (blobs / name.replace("/", "-")).write_bytes(os.urandom(5000))
        (source / name).symlink_to(blobs / name.replace("/", "-"))
    copy_component(source, tmp_path / "out" / "vae")
    names = [str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()]
    for name in names:
        copy = tmp_path / "out" / "vae" / name
        assert copy.read_bytes() == (source / name).read_bytes()
        assert not copy.is_symlink()
        assert copy.stat().st_nlink == 1
    assert len(names) == 3


def test_reports_a_missing_component(tmp_path):
    with pytest.raises(UserError, match="vae: no such folder"):
        copy_component(tmp_path / "vae", tmp_path / "out")
    (tmp_path / "vae").mkdir()
    with pytest.raises(UserError, match="vae: the folder is empty"):
        copy_component(tmp_path / "vae", tmp_path / "out")
