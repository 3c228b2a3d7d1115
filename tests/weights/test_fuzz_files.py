"""Damaged weights and indices are one sentence, whatever is damaged: never a traceback, never a hang, never a bomb."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save

from dreamjax.errors import UserError
from dreamjax.weights.weight_files import open_weights

ROUNDS = 400


def read_all(path):
    """Whether everything could be read. Any exception but a UserError of one sentence fails the test."""
    try:
        for tensor in open_weights(path).values():
            array = np.asarray(tensor)
            assert array.shape == tensor.shape
            assert array.nbytes <= 1 << 20
    except UserError as mistake:
        told = str(mistake)
    else:
        return True
    assert str(path) in told
    assert "\n" not in told
    return False


def damaged(rng, data):
    """`data` with a few bits flipped, cut short, or with a piece of it moved, repeated or zeroed."""
    data, kind = bytearray(data), rng.integers(5)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 2:
        data[at:at] = data[at : at + length]
    elif kind == 3:
        del data[at : at + length]
    else:
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            data[place] ^= 1 << rng.integers(8)
    return bytes(data)


def state():
    return {
        f"down.{k}.weight": torch.ones(3, k + 1, dtype=kind) for k, kind in enumerate((torch.float32, torch.bfloat16))
    }


@pytest.mark.timeout(60)
def test_damaged_safetensors_files(tmp_path):
    good, rng = save(state(), {"format": "pt"}), np.random.default_rng(0)
    path = tmp_path / "model.safetensors"
    read = []
    for _ in range(ROUNDS):
        path.write_bytes(damaged(rng, good))
        read.append(read_all(path))
    for length in range(len(good)):
        path.write_bytes(good[:length])
        assert not read_all(path)
    assert 0 < sum(read) < ROUNDS / 2  # numbers alone were changed, or notes


@pytest.mark.timeout(60)
def test_every_bit_of_a_header(tmp_path):
    good = save({"x": torch.ones(2)}, {"format": "pt"})
    path = tmp_path / "model.safetensors"
    for bit in range(8 * (len(good) - 8)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        read_all(path)


@pytest.mark.timeout(60)
def test_damaged_indices(tmp_path):
    names = list(state())
    where = {name: f"model-0000{k}-of-00002.safetensors" for k, name in enumerate(names, 1)}
    for name, file in where.items():
        (tmp_path / file).write_bytes(save({name: state()[name]}))
    good = json.dumps({"metadata": {"total_size": 24}, "weight_map": where}, indent=2).encode()
    rng, read = np.random.default_rng(1), []
    for _ in range(ROUNDS):
        (tmp_path / "model.safetensors.index.json").write_bytes(damaged(rng, good))
        read.append(read_all(tmp_path))
    assert 0 < sum(read) < ROUNDS / 2  # the metadata alone was changed, or blanks


@pytest.mark.timeout(60)
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_pickled_weights(zipped, tmp_path):
    path, rng = tmp_path / "pytorch_model.bin", np.random.default_rng(2)
    torch.save(state(), path, _use_new_zipfile_serialization=zipped)
    good = path.read_bytes()
    for _ in range(ROUNDS // 2):
        path.write_bytes(damaged(rng, good))
        read_all(path)
