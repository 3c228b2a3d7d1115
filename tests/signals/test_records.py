"""The record on disk: what comes back, what is refused, and what a damaged file says."""

import json
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dreamjax.errors import UserError
from dreamjax.signals.datasets import records, tf_example
from dreamjax.signals.datasets.shards import ShardWriter
from tests import support


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return support.make_shards(tmp_path_factory.mktemp("records") / "set", subjects=4, windows=5)


def one_window(**changes) -> records.Window:
    window = next(support.make_windows(0, channels=19, windows=1))
    return records.Window(**{**window.__dict__, **changes})


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
        elements=st.floats(-1e7, 1e7, allow_subnormal=False),
    )
)
def test_quantising_errs_by_at_most_half_a_step_and_cannot_saturate(signal):
    """|counts · step + offset - signal| ≤ step / 2 for every sample, and |counts| ≤ 32767."""
    counts, step, offset = records.quantise(signal)
    back = counts.astype(float) * step[:, None].astype(float) + offset[:, None].astype(float)
    rounding = 4e-16 * np.abs(signal).max()  # of this very comparison, in float64
    assert (np.abs(back - signal) <= step[:, None] / 2 * (1 + 1e-12) + rounding).all()
    assert np.abs(counts.astype(int)).max() <= 32767


def test_a_direct_current_offset_costs_no_resolution():
    """A range of 100 µV on top of 40 mV (usual for a DC amplifier): step = 100 / 65534 µV."""
    rng = np.random.default_rng(0)
    _, step, _ = records.quantise(40_000 + rng.uniform(-50, 50, (3, 5000)))
    np.testing.assert_allclose(step, 100 / 65534, rtol=2e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_rejects_non_finite_values_with_their_position(bad):
    signal = one_window().signal.copy()
    signal[7, 100] = bad
    with pytest.raises(UserError, match=r"recording synthetic-00, window at 0 s: channel 7 holds NaN or infinite"):
        records.encode(one_window(signal=signal))


def test_parts_that_do_not_fit_together_are_refused():
    with pytest.raises(UserError, match=r"ch_names has shape \(2,\), not \(19,\)"):
        records.encode(one_window(ch_names=("Cz", "Pz")))


def test_every_field_comes_back():
    """`start` in float64: a sample at 2 kHz after 24 h differs from the next. Padding comes back as exact zeros."""
    valid = np.arange(512) < 400
    sent = one_window(
        valid=valid,
        start=86_400 + 1 / 2048,
        label="µ",
        stimulus="n0123.jpg",
        flags=("clipped",),
        channel_ok=np.arange(19) != 3,
        xyz=np.where(np.arange(19)[:, None] == 2, np.nan, [[0.1, 0.2, 0.3]]),
    )
    back = records.decode(records.encode(sent))
    for name in ("ch_names", "sfreq", "reference", "montage_rank", "dataset", "subject", "session", "recording"):
        assert getattr(back, name) == getattr(sent, name), name
    for name in ("start", "scale", "label", "stimulus", "licence", "flags"):
        assert getattr(back, name) == getattr(sent, name), name
    np.testing.assert_array_equal(back.valid, sent.valid)
    np.testing.assert_array_equal(back.channel_ok, sent.channel_ok)
    np.testing.assert_array_equal(back.xyz, sent.xyz.astype(np.float32))
    half_step = np.ptp(sent.signal, axis=1, keepdims=True) / 65534 / 2
    assert (np.abs(back.signal - sent.signal)[:, valid] <= 1.01 * half_step).all()
    assert (back.signal[:, ~valid] == 0).all()


def test_the_same_window_gives_the_same_bytes():
    assert records.encode(one_window()) == records.encode(one_window())


def test_tfds_serialises_the_same_example():
    """TFDS's own serialiser, fed with what its own parser reads from our bytes, writes a message equal to ours."""
    ours = records.encode(one_window(flags=("clipped", "line noise"), stimulus="a.jpg"))
    features = records.tfds_features()
    theirs = features.serialize_example(dict(features.deserialize_example_np(ours)))
    a, b = tf_example.parse(ours), tf_example.parse(theirs)
    assert set(a) == set(b)
    for name in a:
        assert a[name] == b[name], name


def test_shards_open_with_tfds_and_with_grain_without_tensorflow(dataset):
    """In a process of its own, so that nothing else can have imported TensorFlow."""
    program = f"""
import sys
import grain, numpy as np, tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from dreamjax.signals.datasets import records
folder = {dataset!r}
source = tfds.builder_from_directory(folder).as_data_source("train")
window = records.read_windows(folder, "train")[7]
theirs = source[7]
assert len(source) == 10, len(source)
microvolts = theirs["signal"] * theirs["step"][:, None] + theirs["offset"][:, None]
np.testing.assert_array_equal(microvolts, window.signal)
assert [n.decode() for n in theirs["ch_names"]] == list(window.ch_names)
paths = records.open_split(folder, "train").paths
direct = grain.MapDataset.source(ArrayRecordDataSource(paths)).map(records.decode)
np.testing.assert_array_equal(direct[7].signal, window.signal)
assert "tensorflow" not in sys.modules
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


def test_windows_are_read_at_random_and_in_order(dataset):
    windows = records.read_windows(dataset, "train")
    assert [w.start for w in windows[:6]] == [0.0, 2.0, 4.0, 6.0, 8.0, 0.0]
    assert windows[-1].subject == "subject01"
    assert len(list(windows)) == len(windows) == 10
    source = ArrayRecordDataSource(windows.reader.paths)
    assert [source[i] for i in (9, 0, 4)] == windows.reader.read([9, 0, 4])


def test_parts_written_apart_merge_into_numbered_shards_that_hold_them_in_order(tmp_path):
    for subject in range(3):
        with ShardWriter(tmp_path / f"part-{subject}") as writer:
            for window in support.make_windows(subject, windows=4):
                writer.write(records.encode(window))
        assert writer.shard.records == 4
    parts = [tmp_path / f"part-{s}" for s in range(3)]
    merged = records.merge(parts, tmp_path / "set", "eeg", "train", shard_bytes=100_000)
    assert [s.name for s in merged] == [
        f"eeg-train.array_record-{i:05d}-of-{len(merged):05d}" for i in range(len(merged))
    ]
    assert len(merged) > 1
    made = records.finish(tmp_path / "set", "eeg", {"train": merged, "val": []}, {"hours": 1.5})
    assert made["hours"] == 1.5
    assert made["splits"] == {"train": 12}
    assert made["labels"] == ["rest", "task"]
    back = records.read_windows(tmp_path / "set", "train")
    assert [(w.subject, w.start) for w in back] == [(f"subject0{s}", 2.0 * i) for s in range(3) for i in range(4)]


def test_a_failed_write_leaves_nothing(tmp_path):
    def windows():
        yield from support.make_windows(0, windows=3)
        raise RuntimeError("the reader died")

    with pytest.raises(RuntimeError, match="the reader died"):
        records.write_split(tmp_path / "set", "eeg", "train", windows(), shard_bytes=1)
    assert list((tmp_path / "set").iterdir()) == []
    with pytest.raises(UserError, match="cannot be written"):
        records.write_split("/proc/nowhere", "eeg", "train", support.make_windows(0, windows=1))


def damaged_copy(dataset, tmp_path, change) -> tuple[str, str]:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(dataset, folder)
    name = sorted(n for n in json.loads((folder / "dataset.json").read_text())["shards"] if "-train" in n)[0]
    data = (folder / name).read_bytes()
    changed = change(data)
    if changed is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(changed)
    return str(folder), name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d[: len(d) // 2], "it is truncated or damaged"),
        (lambda d: d[:-7], "it is truncated or damaged"),
        (lambda d: b"", "it is truncated or damaged"),
        (lambda d: b"not a shard", "it is truncated or damaged"),
        (lambda d: d[:70_000] + bytes([d[70_000] ^ 1]) + d[70_001:], "this shard is corrupted"),
        (lambda d: None, "this shard is missing"),
    ],
)
def test_a_bad_shard_is_named(dataset, tmp_path, change, says):
    folder, name = damaged_copy(dataset, tmp_path, change)
    with pytest.raises(UserError, match=says) as error:
        list(records.read_windows(folder, "train"))
    assert name in str(error.value)
    problems = records.verify(folder)
    assert len(problems) == 1
    assert name in problems[0]
    assert records.verify(dataset) == []


def test_any_flipped_bit_is_found_by_verify(dataset, tmp_path):
    """Random bits of the first shard; also where the reader itself would not notice."""
    rng = np.random.default_rng(0)
    for trial in range(8):
        flip = rng.integers(1 << 20)

        def change(data, flip=flip):
            at = flip % len(data)
            return data[:at] + bytes([data[at] ^ (1 << trial)]) + data[at + 1 :]  # noqa: B023

        folder, name = damaged_copy(dataset, tmp_path / str(trial), change)
        assert [name in problem for problem in records.verify(folder)] == [True]


def test_reports_wrong_folders(dataset, tmp_path):
    with pytest.raises(UserError, match="no such dataset folder"):
        records.read_windows(tmp_path / "absent", "train")
    with pytest.raises(UserError, match=r"no dataset\.json; is this a folder that `dreamjax prepare` wrote"):
        records.read_windows(tmp_path, "train")
    with pytest.raises(UserError, match="has no split trian; did you mean train"):
        records.read_windows(dataset, "trian")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        records.read_windows(tmp_path, "train")
    (tmp_path / "dataset.json").write_text('{"name": "a", "format": 99, "splits": {}, "shards": {}}')
    with pytest.raises(UserError, match="its record format is 99, this dreamjax reads 1"):
        records.read_windows(tmp_path, "train")
    with pytest.raises(UserError, match="'My Data' cannot be the name of a dataset"):
        records.write_split(tmp_path, "My Data", "train", [])


@pytest.fixture
def object_store(monkeypatch, tmp_path):
    """gs:// kept in memory; local copies of shards go to a folder of this test's."""
    import fsspec
    from etils.epath import backend
    from fsspec.implementations.memory import MemoryFileSystem

    class Store(MemoryFileSystem):
        store: ClassVar[dict] = {}
        pseudo_dirs: ClassVar[list] = [""]
        protocol = "gcs"

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).removeprefix("gs://"))

    fsspec.register_implementation("gcs", Store, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    monkeypatch.setenv("DREAMJAX_CACHE", str(tmp_path / "cache"))
    yield Store.store
    fsspec.register_implementation("gcs", "gcsfs.GCSFileSystem", clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()


def test_a_dataset_on_an_object_store_is_read_through_local_copies(dataset, object_store, tmp_path):
    """Each shard is fetched once; another version of a shard under the same name is fetched again."""
    from pathlib import Path

    from etils import epath

    for file in Path(dataset).iterdir():
        epath.Path("gs://bucket/set").mkdir(parents=True, exist_ok=True)
        epath.Path(f"gs://bucket/set/{file.name}").write_bytes(file.read_bytes())
    assert records.verify("gs://bucket/set") == []
    here, there = records.read_windows(dataset, "train"), records.read_windows("gs://bucket/set", "train")
    np.testing.assert_array_equal(there[7].signal, here[7].signal)
    copies = sorted((tmp_path / "cache").iterdir())
    assert len(copies) == 1
    shard = epath.Path(there.reader.paths[0])
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"gs://bucket/set/synthetic-train.*truncated or damaged"):
        records.read_windows("gs://bucket/set", "train")[0]


def test_shards_are_written_to_an_object_store(object_store):
    made = records.write_split("gs://bucket/new", "eeg", "train", support.make_windows(0, windows=3))
    records.finish("gs://bucket/new", "eeg", {"train": made})
    assert len(records.read_windows("gs://bucket/new", "train")) == 3
    assert records.verify("gs://bucket/new") == []
    assert not [name for name in object_store if "unnamed" in name or name.endswith(".part")]


def test_reports_full_disk_and_leaves_no_files(tmp_path):
    """The limit on file size stands in for the full disk: a write fails in the middle of the second shard's bytes."""
    program = f"""
import resource
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.shards import ShardWriter
from tests import support
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
try:
    records.write_split({str(tmp_path / "set")!r}, "eeg", "train", support.make_windows(0, windows=40))
except UserError as problem:
    print(problem)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "array_record" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert "is the disk full" in done.stdout or "cannot be written" in done.stdout
    assert list((tmp_path / "set").iterdir()) == []
