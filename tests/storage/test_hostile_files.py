"""A file that carries code: the code never runs. A file made to hurt: one sentence, in bounded time and memory."""

import io
import os
import pickle
import pickletools
import resource
import struct
import time
import zipfile

import numpy as np
import pytest
import torch

from dreamjax.errors import UserError
from dreamjax.storage.checkpoint_files import pickle_reader, torch_files
from dreamjax.storage.checkpoint_files.pickle_reader import Inert
from dreamjax.storage.checkpoint_files.torch_pickle import TABLE


class Calls:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def trap(tmp_path):
    """A file that exists only if code has run."""
    return tmp_path / "the-code-ran"


def assert_reads_without_running(content, trap, tmp_path, name="x.pkl"):
    path = tmp_path / name
    path.write_bytes(content)
    try:
        found = torch_files.read(path)
    except UserError as refusal:
        found = refusal
    assert not trap.exists()
    return found


def payloads(trap):
    touch = f"touch {trap}"
    code = f"open({str(trap)!r}, 'w').close()"
    yield "system", Calls(os.system, touch)
    yield "eval", Calls(eval, code)
    yield "exec", Calls(exec, code)
    yield "open", Calls(open, str(trap), "w")
    yield "nested", {"model": [({"deep": Calls(eval, code)},)]}
    yield "as an argument", Calls(dict, Calls(eval, code))
    yield "as a state", Calls(pytest.Item, state={"x": Calls(eval, code)})
    yield "getattr", Calls(getattr, Calls(__import__, "os"), "system")
    yield "numpy loader", Calls(np.load, str(trap))
    yield "torch loader", Calls(torch.load, str(trap))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("index", range(10))
def test_code_in_reduce_never_runs(index, protocol, trap, tmp_path):
    _, payload = list(payloads(trap))[index]
    assert_reads_without_running(pickle.dumps(payload, protocol=protocol), trap, tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_inside_a_torch_checkpoint_never_runs_and_the_rest_is_read(zipped, trap, tmp_path):
    torch.save(
        {"model": {"w": torch.arange(3.0)}, "config": Calls(os.system, f"touch {trap}")},
        tmp_path / "x.pth",
        _use_new_zipfile_serialization=zipped,
    )
    found = torch_files.read(tmp_path / "x.pth")
    assert not trap.exists()
    assert np.asarray(found["model"]["w"]).tolist() == [0, 1, 2]
    assert isinstance(found["config"], Inert)
    assert found["config"].name in ("posix.system", "nt.system")


def test_code_never_runs_by_hand_written_opcodes(trap, tmp_path):
    """INST, OBJ, BUILD with a state setter, EXT, persistent ids, dotted names, and memo tricks."""
    touch = f"touch {trap}".encode()
    programs = {
        "INST": b"(S'" + touch + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + touch + b"'\no.",
        "REDUCE": b"cos\nsystem\n(S'" + touch + b"'\ntR.",
        "memo": b"cos\nsystem\np0\n0g0\n(S'" + touch + b"'\nt\x85p1\n0g0\n(S'" + touch + b"'\ntR.",
        "DUP": b"cos\nsystem\n2(S'" + touch + b"'\ntR.",
        "EXT": b"\x80\x02\x82\x01)R.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00)\x81.",
        "PERSID": b"Pos.system\n.",
        "BINPERSID": b"\x80\x02cos\nsystem\nQ.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n(S'" + touch + b"'\nt\x81.",
        "NEWOBJ_EX": b"\x80\x04\x8c\x02os\x8c\x06system\x93(\x8c\x01xt}\x92.",
        "dotted": b"\x80\x04\x8c\x08builtins\x8c\x12__import__.__call__\x93.",
        "BUILD a setter": b"\x80\x02cbuiltins\nobject\n)\x81}U\x0c__setstate__cos\nsystem\nsbU"
        + bytes([len(touch)])
        + touch
        + b"b.",
        "BUILD a table function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x04callcos\nsystem\nsb.",
        "a table function on a placeholder": b"\x80\x02ctorch._utils\n_rebuild_parameter\ncos\nsystem\n\x85R(S'"
        + touch
        + b"'\ntR.",
        "encode with a codec": b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x05\x00\x00\x00rot13\x86R.",
        "dtype of a record": b"\x80\x02cnumpy\ndtype\nX\x0b\x00\x00\x00f8,f8,os.xx\x85R.",
    }
    before = dict(TABLE)
    for name, program in programs.items():
        found = assert_reads_without_running(program, trap, tmp_path)
        assert isinstance(found, (Inert, UserError)) or callable(getattr(found, "call", None)), (name, found)
    assert before == TABLE


def test_reading_imports_nothing(tmp_path):
    import sys

    (tmp_path / "x.pkl").write_bytes(b"cthis_module_does_not_exist\nthing\n.")
    assert "antigravity" not in sys.modules
    assert torch_files.read(tmp_path / "x.pkl").name == "this_module_does_not_exist.thing"
    (tmp_path / "y.pkl").write_bytes(b"cantigravity\nfly\n)R.")
    torch_files.read(tmp_path / "y.pkl")
    assert "antigravity" not in sys.modules


# ------------------------------------------------------------------------------------------------ made to hurt
def short(argument):
    return b"\x8c" + bytes([len(argument)]) + argument


HURTFUL = {
    "a hash that takes for ever": b"\x80\x02}" + b")" + b"2\x86" * 60 + b"K\x01s.",
    "a string copied without measure": b"\x80\x04c_codecs\nencode\nq\x00"
    + b"X" + struct.pack("<I", 1 << 22) + b"a" * (1 << 22) + b"q\x01" + short(b"latin1") + b"\x86q\x02]"
    + b"(" + b"h\x00h\x02R" * 1000 + b"e.",
    "a list copied without measure": b"\x80\x02](" + b"K\x01" * 100_000 + b"eq\x00" + b"ctorch\nSize\nq\x010]("
    + b"h\x01h\x00\x85R" * 1000 + b"e.",
    "a declared length beyond the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "a negative length": b"\x80\x02T\xff\xff\xff\xffabc.",
    "an endless number": b"I" + b"9" * 100_000 + b"\n.",
    "no end": b"\x80\x02]",
    "nothing to stop with": b".",
    "an unopened mark": b"t.",
    "an unknown memo": b"h\x07.",
    "an unknown opcode": b"\xff.",
    "text that is no text": b"X\x02\x00\x00\x00\xff\xfe.",
    "an item of a number": b"K\x01K\x02K\x03s.",
    "a key that is a list": b"}]K\x01s.",
    "an import of numbers": b"\x80\x04K\x01K\x02\x93.",
    "a call of a number": b"K\x01)R.",
    "a call without arguments": b"cos\nsystem\nK\x01R.",
    "buffers elsewhere": b"\x80\x05\x97.",
}  # fmt: skip


@pytest.mark.parametrize("name", HURTFUL)
def test_a_hostile_pickle_takes_bounded_time_and_memory(name, tmp_path):
    (tmp_path / "x.pkl").write_bytes(HURTFUL[name])
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = torch_files.read(tmp_path / "x.pkl")
        assert isinstance(found, (Inert, list)), found
        sentence = "x.pkl"
    except UserError as refusal:
        sentence = str(refusal)
    assert "x.pkl" in sentence
    assert "\n" not in sentence
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10  # KiB


def test_too_many_instructions_are_refused(monkeypatch):
    monkeypatch.setattr(pickle_reader, "MAX_OPCODES", 1000)
    with pytest.raises(UserError, match="more than 1,000 instructions"):
        pickle_reader.interpret(io.BytesIO(b"N0" * 1000 + b"N."), 2002, TABLE, "x")


def test_deep_nesting_is_read_without_recursion(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"]" + b"\x85" * 20_000 + b".")
    found = torch_files.read(tmp_path / "x.pkl")
    assert isinstance(found, tuple)
    assert torch_files.plain(found) == [[[[[[[[None]]]]]]]]
    assert torch_files.plain({"a": found})["a"] is not None


def archive(path, pickle_bytes, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as made:
        made.writestr("x/data.pkl", pickle_bytes)
        for name, content in storages.items():
            made.writestr(f"x/data/{name}", content)


def tensor_program(*, kind=b"FloatStorage", numel=4, offset=0, size=(4,), stride=(1,)):
    """The pickle of one tensor of storage "0", with any figures."""

    def number(n):
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def numbers(items):
        return b"(" + b"".join(map(number, items)) + b"t"

    pid = b"(" + short(b"storage") + b"ctorch\n" + kind + b"\n" + short(b"0") + short(b"cpu") + number(numel) + b"tQ"
    arguments = b"(" + pid + number(offset) + numbers(size) + numbers(stride) + b"\x89Nt"
    return b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."


def test_the_hand_written_tensor_is_a_tensor(tmp_path):
    data = np.arange(4, dtype=np.float32)
    archive(tmp_path / "x.pth", tensor_program(offset=1, size=(3,)), {"0": data.tobytes()})
    assert np.asarray(torch_files.read(tmp_path / "x.pth")).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "figures",
    [
        {"numel": 5},
        {"numel": 1 << 60},
        {"numel": -1},
        {"offset": 1},
        {"offset": -1},
        {"offset": 1 << 62},
        {"size": (5,)},
        {"size": (-4,)},
        {"size": (2, 1 << 61), "stride": (0, 0)},
        {"size": (1 << 33,), "stride": (0,)},
        {"stride": (2,)},
        {"stride": (-1,)},
        {"size": (2, 2), "stride": (1,)},
        {"size": (1,) * 40, "stride": (1,) * 40},
        {"kind": b"DoubleStorage"},
    ],
)
def test_rejects_a_tensor_with_inconsistent_sizes(tmp_path, figures):
    archive(tmp_path / "x.pth", tensor_program(**figures), {"0": bytes(16)})
    with pytest.raises(UserError, match="not readable"):
        torch_files.read(tmp_path / "x.pth")


def test_a_storage_of_unknown_type_makes_no_tensor(tmp_path):
    archive(tmp_path / "x.pth", tensor_program(kind=b"QInt8Storage"), {"0": bytes(16)})
    assert isinstance(torch_files.read(tmp_path / "x.pth"), Inert)


def test_a_zip_bomb_is_refused(tmp_path):
    archive(tmp_path / "x.pth", tensor_program(), {"0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "x.pth").stat().st_size < 1 << 16
    with pytest.raises(UserError, match="compressed"):
        torch_files.read(tmp_path / "x.pth")


# ------------------------------------------------------------------------------------------------------------ fuzzing
def everything_in(value):
    """Read every array of a tree, wherever it lies."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            waiting += list(item.values())
        elif isinstance(item, (list, tuple, set)):
            waiting += list(item)
        elif hasattr(item, "__array__"):
            np.asarray(item)


def mutated(content, rng):
    content = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        kind, place = rng.integers(4), int(rng.integers(len(content)))
        if kind == 0:
            content[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content[place : place + int(rng.integers(1, 20))] = rng.bytes(int(rng.integers(0, 20)))
        elif kind == 2:
            content[place] = int(rng.choice(list(b"().0125NQRbcdeghioprst}\x81\x85\x86\x93\x94")))
        else:
            del content[place + int(rng.integers(1, 64)) :]
        if not content:
            return b"\x80"
    return bytes(content)


def seeds(tmp_path):
    value = {"m": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, "n": np.arange(3)}
    value |= {
        "c": Calls(os.system, f"touch {tmp_path / 'the-code-ran'}"),
        "e": [1, (2.5, "x"), {3}],
        "s": np.float32(1),
    }
    for zipped in (True, False):
        torch.save(value, tmp_path / "seed.pth", _use_new_zipfile_serialization=zipped)
        yield (tmp_path / "seed.pth").read_bytes()
    value = {k: v for k, v in value.items() if k != "m"}
    for protocol in (0, 2, 4, 5):
        yield pickle.dumps(value, protocol=protocol)
    np.save(tmp_path / "seed.npy", np.array([value], dtype=object), allow_pickle=True)
    yield (tmp_path / "seed.npy").read_bytes()
    np.save(tmp_path / "seed.npy", np.arange(10))
    yield (tmp_path / "seed.npy").read_bytes()


def fuzz(tmp_path, rounds, seed=0):
    rng, originals, refused = np.random.default_rng(seed), list(seeds(tmp_path)), 0
    for number in range(rounds):
        path = tmp_path / "mutated"
        path.write_bytes(mutated(originals[number % len(originals)], rng))
        try:
            everything_in(torch_files.read(path))
        except UserError:
            refused += 1
    assert not (tmp_path / "the-code-ran").exists()
    return refused


def test_mutated_files_give_a_result_or_a_user_error(tmp_path):
    refused = fuzz(tmp_path, 800)
    assert 100 < refused < 800  # some mutations are harmless, most are not


@pytest.mark.hostile
def test_many_mutated_files_give_a_result_or_a_user_error(tmp_path):
    assert fuzz(tmp_path, 20_000, seed=1) > 1000


def test_every_opcode_of_every_protocol_is_known():
    assert {opcode.name for opcode in pickletools.opcodes} - {"STOP"} == set(pickle_reader.OPCODES)
