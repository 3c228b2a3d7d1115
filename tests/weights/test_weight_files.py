"""Weights as diffusers, transformers and torch write them, found in their folders and read when asked for."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from dreamjax.errors import UserError
from dreamjax.storage.checkpoint_files.ranges import Ranges
from dreamjax.weights.weight_files import open_weights


def autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(8,), layers_per_block=1, norm_num_groups=2, sample_size=8)


def text_encoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=99, max_position_embeddings=7, **sizes))


def assert_holds(found, state):
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].shape == tuple(tensor.shape)
        array = np.asarray(found[name])
        assert array.dtype == found[name].dtype
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert array.tobytes() == raw, name


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [autoencoder, text_encoder])
@pytest.mark.parametrize("size", ["10GB", "2KB"], ids=["one file", "shards"])
def test_a_folder_that_save_pretrained_wrote_is_read(make, kind, size, tmp_path):
    model = make().to(kind)
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (size == "2KB")
    assert_holds(open_weights(tmp_path), model.state_dict())


@pytest.mark.parametrize("make", [autoencoder, text_encoder])
@pytest.mark.parametrize("size", ["10GB", "2KB"], ids=["one file", "shards"])
def test_a_variant_is_read_where_it_is_asked_for(make, size, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    half = make().to(torch.float16)
    half.save_pretrained(tmp_path, variant="fp16", max_shard_size=size)
    assert_holds(open_weights(tmp_path), model.state_dict())
    assert_holds(open_weights(tmp_path, variant="fp16"), half.state_dict())
    with pytest.raises(UserError, match="has no weights of the variant 'fp61'; it has 'fp16' and None, the plain ones"):
        open_weights(tmp_path, variant="fp61")


def test_reads_the_only_variant_with_a_warning(tmp_path, caplog):
    half = text_encoder().to(torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    assert_holds(open_weights(tmp_path), half.state_dict())
    assert "has only weights of the variant fp16" in caplog.text


def test_rejects_several_variants_without_a_choice(tmp_path):
    for variant in ("fp16", "non_ema"):
        save_file({"x": torch.ones(2)}, tmp_path / f"diffusion_pytorch_model.{variant}.safetensors")
    with pytest.raises(UserError, match="has only weights of the variants fp16 and non_ema; choose one"):
        open_weights(tmp_path)


def test_plain_pickled_weights_come_before_a_variant(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "model.fp16.safetensors")
    torch.save({"x": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert np.asarray(open_weights(tmp_path)["x"]).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin"])
def test_reads_pickled_weights_when_there_are_no_others(name, tmp_path):
    state = autoencoder().to(torch.bfloat16).state_dict()
    torch.save(state, tmp_path / name)
    assert_holds(open_weights(tmp_path), state)
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    assert list(open_weights(tmp_path)) == ["x"]


def test_sharded_pickled_weights_are_read(tmp_path):
    state = text_encoder().state_dict()
    where = {name: f"pytorch_model-0000{1 + k % 2}-of-00002.bin" for k, name in enumerate(state)}
    for file in set(where.values()):
        torch.save({name: state[name] for name in where if where[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert_holds(open_weights(tmp_path), state)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.pth", "a.bin"])
def test_one_pickled_file_is_read(name, wrap, tmp_path):
    torch.save(wrap({"x": torch.arange(6.0).reshape(2, 3).T}), tmp_path / name)
    assert np.asarray(open_weights(tmp_path / name)["x"]).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_never_executes_a_pickle(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"x": torch.ones(2), "y": Harmful()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"1 of 2 entries are not tensors: y is made by \S+open, which is not executed"):
        open_weights(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_only_the_tensor_that_is_asked_for_is_read(tmp_path, monkeypatch):
    save_file({name: torch.ones(1000) for name in "abc"}, tmp_path / "model.safetensors")
    read = []
    read_into = Ranges.read_into
    monkeypatch.setattr(
        Ranges, "read_into", lambda self, a, start: (read.append(a.nbytes), read_into(self, a, start))[1]
    )
    found = open_weights(tmp_path)
    assert (found["a"].shape, read) == ((1000,), [])
    assert np.asarray(found["b"], np.float16).dtype == np.float16
    assert read == [4000]


def test_weights_in_an_object_store_are_read(object_store, tmp_path):
    text_encoder().save_pretrained(tmp_path, max_shard_size="2KB")
    for file in tmp_path.iterdir():
        (object_store / "model" / file.name).write_bytes(file.read_bytes())
    assert_holds(open_weights(object_store / "model"), text_encoder().state_dict())


INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00002.safetensors"


def sharded(folder, **weight_map):
    for k, name in enumerate("xy", 1):
        save_file({name: torch.ones(2)}, folder / f"model-0000{k}-of-00002.safetensors")
    named = {"x": SHARD.replace("2-", "1-"), "y": SHARD} | weight_map
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 16}, "weight_map": named}))


@pytest.mark.parametrize(
    ("weight_map", "told"),
    [
        ({"y": "model-00003-of-00002.safetensors"}, r"names missing files \(model-00003-of-00002"),
        ({"z": SHARD, "w": SHARD}, rf"names missing tensors \(z in {SHARD}, w in {SHARD}\)"),
        ({"y": "../secret.safetensors"}, "'../secret.safetensors' is not the name of a file next to it"),
        ({"y": "/etc/passwd"}, "'/etc/passwd' is not the name of a file next to it"),
        ({"y": 3}, "no weight_map of tensor and file names"),
    ],
)
def test_reports_an_index_that_names_missing_files(weight_map, told, tmp_path):
    sharded(tmp_path, **weight_map)
    with pytest.raises(UserError, match=told) as caught:
        open_weights(tmp_path)
    assert INDEX in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "this is not JSON"),
        ("[]", "this is a JSON list, not an object"),
        ("{}", "no weight_map"),
        ("version https://git-lfs.github.com/spec/v1", "a Git LFS pointer, not JSON"),
        ("<html>", "a web page, not JSON"),
        ("[" * 100_000, "this is not JSON"),
    ],
)
def test_reports_a_damaged_index(content, told, tmp_path):
    sharded(tmp_path)
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(UserError, match=told) as caught:
        open_weights(tmp_path)
    assert INDEX in str(caught.value)


def test_reports_a_folder_without_weights(tmp_path):
    with pytest.raises(UserError, match=r"has no weights \(diffusion_pytorch_model.safetensors or .*\)$"):
        open_weights(tmp_path)
    (tmp_path / "v1-5.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"it has v1-5.safetensors: name that file"):
        open_weights(tmp_path)


def test_reports_paths_without_weights(tmp_path):
    with pytest.raises(UserError, match=r"nothing.safetensors: no such file or folder"):
        open_weights(tmp_path / "nothing.safetensors")
    (tmp_path / "image.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"read from files in \.safetensors and \.bin, .*, not \.png"):
        open_weights(tmp_path / "image.png")
