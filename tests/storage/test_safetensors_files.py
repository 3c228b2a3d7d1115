"""The safetensors format, held against the package: the same tensors are read, the same bytes are written."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.torch import save

from dreamjax.errors import UserError
from dreamjax.storage.checkpoint_files import safetensors_files

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
KINDS += [torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]
KINDS += [torch.float8_e5m2, torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


def of_every_type():
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 2, (4, 48), dtype=torch.uint8, generator=generator)
    tensors = {f"part.{k}.{kind}": raw.clone().view(kind) for k, kind in enumerate(KINDS)}
    return tensors | {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 5), 'of µV "\\\n\x01': torch.ones(3)}


def bytes_of(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_type_is_read_bit_exactly(tmp_path):
    path, tensors = tmp_path / "a.safetensors", of_every_type()
    path.write_bytes(save(tensors, {"format": "pt"}))
    found = safetensors_files.read(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        array = np.asarray(found[name])
        assert array.shape == tuple(tensor.shape) == found[name].shape
        assert array.dtype == found[name].dtype
        assert array.tobytes() == bytes_of(tensor), name
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in found.items()}
    assert kinds["bfloat16"] == ml_dtypes.bfloat16
    assert kinds["float8_e4m3fn"] == ml_dtypes.float8_e4m3fn
    assert kinds["complex64"] == np.complex64


def test_the_bytes_written_are_those_of_the_package(tmp_path):
    path, tensors = tmp_path / "a.safetensors", of_every_type()
    path.write_bytes(save(tensors, {"format": "pt"}))
    safetensors_files.write(tmp_path / "b.safetensors", safetensors_files.read(path))
    assert (tmp_path / "b.safetensors").read_bytes() == path.read_bytes()


def test_writes_noncontiguous_arrays_in_order(tmp_path):
    a = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    safetensors_files.write(tmp_path / "a.safetensors", {"a": a})
    found = load((tmp_path / "a.safetensors").read_bytes())["a"]
    assert found.tolist() == a.tolist()


def test_rejects_an_unsupported_type_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"x has the type complex128, which safetensors files cannot hold"):
        safetensors_files.write(tmp_path / "a.safetensors", {"x": np.zeros(3, np.complex128)})
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    class Broken:
        shape, dtype = (3,), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            raise OSError("connection lost")

    path = tmp_path / "a.safetensors"
    safetensors_files.write(path, {"x": np.zeros(3)})
    before = path.read_bytes()
    with pytest.raises(OSError, match="connection lost"):
        safetensors_files.write(path, {"w": np.zeros(3), "x": Broken()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def a_file(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


DAMAGED = {
    "five bytes": (b"\0" * 5, "damaged or cut short"),
    "a header longer than the file": ((1 << 40).to_bytes(8, "little") + b"{}", "should take 1099511627776 bytes of 10"),
    "no JSON": (a_file(b"{never}"), "its header is not JSON"),
    "bytes that are no text": (a_file(b'{"\xff": 1}'), "its header is not JSON"),
    "deeply nested JSON": (a_file(b"[" * 100_000), "its header is not JSON"),
    "a list": (a_file([]), "not a JSON object"),
    "a name twice": (a_file(b'{"x": 1, "x": 1}'), "names something twice"),
    "a tensor that is a number": (a_file({"x": 3}), "'x' has no type, shape and offsets"),
    "a negative size": (a_file({"x": entry(shape=(-2,))}), "impossible shape"),
    "a size that is no number": (a_file({"x": entry(shape=("2",))}), "impossible shape"),
    "an endless size": (a_file({"x": entry(shape=(1 << 62,) * 30)}), "which do not fit its shape"),
    "offsets beyond the end": (a_file({"x": entry(offsets=(0, 8)), "y": entry(offsets=(8, 16))}), "the file at"),
    "the end missing": (a_file({"x": entry()}, b"\0" * 7), "its tensors end at byte"),
    "bytes after the end": (a_file({"x": entry()}, b"\0" * 9), "its tensors end at byte"),
    "overlapping tensors": (a_file({"x": entry(), "y": entry(offsets=(4, 12))}, b"\0" * 12), "'y' lies 4 bytes into"),
    "a hole": (a_file({"x": entry(), "y": entry(offsets=(12, 20))}, b"\0" * 20), "'y' lies 4 bytes beyond"),
    "more bytes than the shape": (a_file({"x": entry(shape=(1,))}), "8 bytes, which do not fit its shape"),
    "offsets that go back": (a_file({"x": entry(offsets=(8, 0))}), "-8 bytes, which do not fit its shape"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_reports_a_damaged_file(name, tmp_path):
    path, (content, told) = tmp_path / "model.safetensors", DAMAGED[name]
    path.write_bytes(content)
    with pytest.raises(SafetensorError):  # the package refuses it too
        load(content)
    with pytest.raises(UserError, match=r"model\.safetensors") as caught:
        safetensors_files.read(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>not found</html>", "a web page"),
        (b"PK\x03\x04" + b"\0" * 60, "torch.save wrote this"),
        (b"", "the file is empty"),
        (
            a_file({"x": entry("F4", (16,))}),
            "'x' has the type 'F4', which is not supported; it must be one of BOOL, U8",
        ),
        (a_file({"x": entry("Q7")}), "'x' has the type 'Q7'"),
    ],
)
def test_reports_the_kind_of_a_foreign_file(content, told, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=told):
        safetensors_files.read(tmp_path / "model.safetensors")


@pytest.mark.parametrize("length", [ord("<"), 0x3C20, 0x0280, 0x0A3C])
def test_a_good_file_may_begin_with_any_byte(length, tmp_path):
    """Its first bytes are the length of its header: 0x3C20 reads as " <", as a web page begins."""
    text = json.dumps({"x": entry()}, separators=(",", ":")).encode().ljust(length)
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + text[:length] + bytes(8))
    assert safetensors_files.read(tmp_path / "a.safetensors")["x"].shape == (2,)


def test_reports_a_file_that_shrinks_after_it_was_opened(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors_files.write(path, {"x": np.zeros(1000)})
    found = safetensors_files.read(path)
    with path.open("r+b") as stream:
        stream.truncate(500)
    with pytest.raises(UserError, match="cut short while it was read"):
        np.asarray(found["x"])


def test_a_file_that_is_replaced_is_read_as_it_was(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors_files.write(path, {"x": np.ones(3)})
    found = safetensors_files.read(path)
    safetensors_files.write(path, {"x": np.zeros(3)})
    assert np.asarray(found["x"]).tolist() == [1, 1, 1]


def test_reads_only_the_header_of_an_object_until_a_tensor_is_read(object_store, monkeypatch):
    path = object_store / "a.safetensors"
    safetensors_files.write(path, {"x": np.arange(3), "y": np.ones(2)})
    copied = []
    copy = safetensors_files.Ranges._copied
    monkeypatch.setattr(safetensors_files.Ranges, "_copied", lambda self: (copied.append(1), copy(self))[1])
    found = safetensors_files.read(path)
    assert (found["x"].shape, copied) == ((3,), [])
    assert np.asarray(found["x"]).tolist() == [0, 1, 2]
    assert np.asarray(found["y"]).tolist() == [1, 1]
    assert copied == [1]
