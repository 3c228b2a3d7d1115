"""Files that torch, NumPy and pickle wrote, read without any of them executing a thing."""

import collections
import pickle
import zipfile

import numpy as np
import pytest
import torch

from dreamjax.errors import UserError
from dreamjax.storage.checkpoint_files import torch_files, torch_writer
from dreamjax.storage.checkpoint_files.pickle_reader import Inert


class Config:
    """What DreamDiffusion pickles beside its weights."""

    def __init__(self):
        self.num_heads, self.mask_ratio, self.focus_range, self.rate = 16, 0.1, None, np.float64(0.6)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def saved(request, tmp_path):
    """torch.save in both layouts."""

    def save(value):
        path = tmp_path / "checkpoint.pth"
        torch.save(value, path, _use_new_zipfile_serialization=request.param)
        return path

    return save


def test_every_type_of_tensor_is_read_bit_exactly(saved):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    kinds += [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn]
    tensors = {str(kind): (base.abs() * 9).to(kind) for kind in kinds}
    found = torch_files.tensors(torch_files.read(saved(tensors)), "x")
    for name, tensor in tensors.items():
        array = np.asarray(found[name])
        assert array.shape == tuple(tensor.shape)
        assert array.tobytes() == bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes()), name


def test_views_scalars_and_empty_tensors_are_read(saved):
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "transposed": base.permute(2, 0, 1),
        "sliced": base[1, 1:, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 5),
        "expanded": torch.ones(1).expand(3, 2),
        "parameter": torch.nn.Parameter(base[0]),
    }
    found = torch_files.read(saved(tensors))
    for name, tensor in tensors.items():
        assert np.asarray(found[name]).tolist() == tensor.detach().tolist(), name


def test_reads_plain_data_next_to_tensors(saved):
    value = {"epoch": 3, "state": torch.nn.Linear(2, 3).state_dict(), "size": torch.Size([2, 3]), "none": None}
    value |= {"list": [1.5, "text", (True, b"bytes")], "numpy": np.arange(6, dtype=">i2").reshape(2, 3), "set": {1, 2}}
    value |= {"f": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "dtype": torch.float32, "big": 1 << 200}
    found = torch_files.read(saved(value))
    assert found["epoch"] == 3
    assert set(found["state"]) == {"weight", "bias"}
    assert found["size"] == (2, 3)
    assert found["none"] is None
    assert found["list"] == [1.5, "text", (True, b"bytes")]
    assert np.asarray(found["numpy"]).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.asarray(found["f"]).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["set"] == {1, 2}
    assert found["big"] == 1 << 200


def test_a_config_instance_is_a_placeholder_with_its_attributes(saved):
    found = torch_files.read(saved({"config": Config(), "model": {"w": torch.ones(1)}}))
    assert isinstance(found["config"], Inert)
    assert found["config"].name.endswith(".Config")
    assert found["config"].attributes == {"num_heads": 16, "mask_ratio": 0.1, "focus_range": None, "rate": 0.6}


def test_tensors_that_depend_on_a_placeholder_are_refused_by_name(saved):
    path = saved({"good": torch.ones(2), "sparse": torch.eye(2).to_sparse(), "object": Config()})
    with pytest.raises(UserError) as caught:
        torch_files.tensors(torch_files.read(path), str(path))
    assert "2 of 3" in str(caught.value)
    assert "sparse is made by torch._utils._rebuild_sparse_tensor" in str(caught.value)
    assert "object is made by" in str(caught.value)


def test_opening_reads_no_tensor(tmp_path):
    """64 MB of weights: what Python allocates to open the file and read one small tensor stays below 1 MB."""
    import tracemalloc

    path = tmp_path / "large.pth"
    torch.save({"large": torch.zeros(16 << 20), "small": torch.ones(3)}, path)
    tracemalloc.start()
    found = torch_files.read(path)
    assert np.asarray(found["small"]).tolist() == [1, 1, 1]
    assert found["large"].shape == (16 << 20,)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_numpy_arrays_are_read_in_every_protocol(tmp_path, protocol):
    value = {"eeg": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32), "label": np.int64(7)}
    value |= {"names": np.array(["Fp1", "Cz"]), "objects": np.array([np.arange(2), {"k": 1}], dtype=object)}
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    found = torch_files.read(path)
    np.testing.assert_array_equal(np.asarray(found["eeg"]), value["eeg"])
    assert found["label"] == 7
    assert np.asarray(found["names"]).tolist() == ["Fp1", "Cz"]
    assert found["objects"].objects[1] == {"k": 1}
    np.testing.assert_array_equal(np.asarray(found["objects"].objects[0]), [0, 1])


def test_object_arrays_of_numpy_are_read(tmp_path):
    """`np.save` of dicts, as THINGS-EEG2 and EEG-ImageNet are distributed."""
    path = tmp_path / "data.npy"
    np.save(path, {"ch_names": ["Fp1", "Cz"], "data": np.arange(6.0).reshape(2, 3)}, allow_pickle=True)
    found = torch_files.read(path).item()
    assert found["ch_names"] == ["Fp1", "Cz"]
    assert np.asarray(found["data"]).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((3, 2))), np.array(5, "<i2")]
)
def test_arrays_of_numbers_are_mapped(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = torch_files.read(tmp_path / "a.npy")
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()


def test_an_ordered_dict_with_metadata_is_a_dict(saved):
    state = collections.OrderedDict(a=torch.ones(1), b=torch.zeros(1))
    state._metadata = {"version": 1}
    assert list(torch_files.read(saved(state))) == ["a", "b"]


def test_plain_keeps_plain_data_only():
    assert torch_files.plain({"a": [1, (2, None)], "b": Inert("x.y"), 3: "no"}) == {"a": [1, [2, None]], "b": None}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"hello, this is text\n", "not readable"),
        (b"PK\x03\x04 and then nothing", "archive is damaged"),
        (b"\x93NUMPY\x01\x00\x05\x00{{{{{", "header is damaged"),
        (b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999,)}", "header"),
    ],
)
def test_reports_files_that_are_not_checkpoints(tmp_path, content, says):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        torch_files.read(tmp_path / "x.pth")
    assert "x.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reports_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        torch_files.read(tmp_path / "absent.pth")
    with pytest.raises(UserError, match="folder"):
        torch_files.read(tmp_path)


def test_another_zip_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(UserError, match="not written by torch"):
        torch_files.read(tmp_path / "x.zip")


def test_a_flipped_bit_in_a_tensor_is_found(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    place = content.find(np.arange(1000, dtype=np.float32).tobytes())
    content[place + 77] ^= 4
    path.write_bytes(content)
    tensor = torch_files.read(path)["w"]
    with pytest.raises(UserError, match="checksum of storage 0"):
        np.asarray(tensor)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_reports_a_truncated_file(saved, share):
    path = saved({"a": torch.arange(5000.0), "b": torch.arange(5000.0)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError):
        np.asarray(torch_files.read(path)["b"])


def test_torch_opens_what_is_written_without_it(tmp_path):
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3).T, np.arange(3), np.ones((2, 1))]
    value = {
        "list": [{"a": arrays[0], "n": -3, "big": 1 << 40, "t": True, "none": None}],
        "text": ["n01", "ü"],
        "e": [],
    }
    torch_writer.save(tmp_path / "x.pth", {**value, "long": arrays[1], "double": arrays[2]})
    for found in (torch.load(tmp_path / "x.pth", weights_only=True), torch_files.read(tmp_path / "x.pth")):
        assert np.asarray(found["list"][0].pop("a")).tolist() == arrays[0].tolist()
        assert np.asarray(found["long"]).tolist() == [0, 1, 2]
        assert np.asarray(found["double"]).dtype == np.float64
        assert {k: found[k] for k in value} == {
            **value,
            "list": [{k: v for k, v in value["list"][0].items() if k != "a"}],
        }
    with pytest.raises(TypeError, match="a set cannot be written"):
        torch_writer.save(tmp_path / "y.pth", {1, 2})
    assert not (tmp_path / "y.pth").exists()
