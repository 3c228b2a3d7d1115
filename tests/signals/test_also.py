"""What a batch carries where a system asks: subjects, sensor kinds and positions, …; and records without them."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from streams import assert_same, joined, make_corpora, stream_of, take

from dreamjax.errors import UserError
from dreamjax.signals.datasets import pipeline, records, tf_example
from dreamjax.signals.datasets.shards import ShardWriter
from dreamjax.signals.recordings import montage
from tests import support

EVERY = pipeline.ALSO


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("corpora")
    return make_corpora(folder) | {"meg": write(folder / "meg", meg_windows())}


def write(folder, windows) -> str:
    records.finish(folder, "meg", {"train": records.write_split(folder, "meg", "train", windows)})
    return str(folder)


def meg_windows() -> list[records.Window]:
    """Three channels of two kinds, one of them without a position; two people with two sessions."""
    xyz = np.array([[0.1, 0.0, 0.05], [np.nan] * 3, [0.0, -0.1, 0.06]])
    windows = []
    for subject in range(2):
        for i, window in enumerate(support.make_windows(subject, channels=3, windows=4, samples=160)):
            windows.append(
                dataclasses.replace(
                    window,
                    **{"ch_names": ("MEG 1", "MEG 2", "MEG 3"), "xyz": xyz, "session": f"{subject}-{i // 2}"},
                    **{"modality": "meg", "unit": "fT", "sensor_kind": ("mag", "grad", "mag")},
                )
            )
    return windows


def without(record: bytes, *names: str) -> bytes:
    """A record as it was written before these features existed."""
    features = {k: v for k, v in tf_example.parse(record).items() if k not in names}
    return tf_example.extended(b"", {k: list(v.bytes_list.value or v.int64_list.value) for k, v in features.items()})


# -------------------------------------------------------------------------------------------------------------- batches
def test_a_batch_carries_subjects_as_places_in_the_sorted_list_of_all_splits(corpora):
    """Train and val count alike; in whichever process, after any restart; the other rows are what they are without."""
    train = stream_of(corpora, "a", "b", also=("subject",))
    assert train.names["subject"] == tuple(f"subject{s:02d}" for s in range(5))
    windows = [w for name in "ab" for w in records.read_windows(corpora[name], "train")]
    rows = joined(take(train, 3, batch_size=8))
    assert [train.names["subject"][s] for s in rows["subject"]] == [windows[train.order[i]].subject for i in range(24)]
    assert rows["subject"].dtype == np.int32
    second = take(train, 1, start=8, batch_size=8, process=1, processes=2, workers=1)[0]
    np.testing.assert_array_equal(second["subject"], rows["subject"][12:16])
    assert_same(
        {k: v for k, v in rows.items() if k != "subject"}, joined(take(stream_of(corpora, "a", "b"), 3, batch_size=8))
    )
    held_out = stream_of(corpora, "a", split="val", training=False, also=("subject",))
    assert held_out.names["subject"] == train.names["subject"]
    assert {held_out.names["subject"][s] for s in take(held_out, 1, batch_size=4)[0]["subject"]} == {"subject03"}


def test_own_channels_carry_their_positions_and_kinds(corpora):
    stream = stream_of(corpora, "meg", montage="own", training=False, also=EVERY)
    rows = take(stream, 1, batch_size=8)[0]
    windows = meg_windows()
    np.testing.assert_allclose(rows["sensor_positions"][:, [0, 2]], [windows[0].xyz[[0, 2]]] * 8, atol=1e-7)
    assert (rows["sensor_positions"][:, 1] == 0).all()
    assert rows["sensor_positions_ok"].tolist() == [[1.0, 0.0, 1.0]] * 8
    assert stream.names["sensor_kind"] == ("grad", "mag")
    assert rows["sensor_kind"].tolist() == [[1, 0, 1]] * 8
    assert (stream.names["modality"], stream.names["unit"]) == (("meg",), ("fT",))
    assert [stream.names["session"][s] for s in rows["session"]] == [w.session for w in windows]
    assert {name: (spec.shape, spec.dtype) for name, spec in stream.element().items()} == {
        name: (values.shape[1:], values.dtype) for name, values in rows.items()
    }


def test_positions_follow_the_channels_into_a_montage_and_interpolated_ones_have_none(corpora):
    stream = stream_of(corpora, "a", montage="1010-32", training=False, also=("sensor_positions", "sensor_kind"))
    rows = take(stream, 1, batch_size=2)[0]
    names, _ = montage.template("1010-32")
    window = records.read_windows(corpora["a"], "train")[0]
    xyz = dict(zip(window.ch_names, window.xyz, strict=True))
    real = np.array([name in xyz for name in names])
    assert rows["sensor_positions_ok"].tolist() == [real.astype(float).tolist()] * 2
    np.testing.assert_array_equal(rows["sensor_positions"][0], [xyz.get(name, np.zeros(3)) for name in names])
    assert rows["sensor_kind"].tolist() == [[0 if r else -1 for r in real]] * 2


def test_positions_are_tiled_with_the_channels(corpora):
    rows = take(stream_of(corpora, "a", mapping="tile", training=False, also=("sensor_positions",)), 1, batch_size=2)[0]
    xyz = records.read_windows(corpora["a"], "train")[0].xyz
    np.testing.assert_array_equal(rows["sensor_positions"][1], xyz[np.arange(128) % 19])


def test_rejects_a_field_that_batches_do_not_have(corpora):
    with pytest.raises(UserError, match="a batch cannot carry 'subjects'; did you mean subject"):
        stream_of(corpora, "a", also=("subjects",))


# -------------------------------------------------------------------------------------------------------------- records
def test_optional_fields_come_back():
    sent = meg_windows()[0]
    back = records.decode(records.encode(sent))
    for name in ("modality", "unit", "sensor_kind", "session"):
        assert getattr(back, name) == getattr(sent, name), name
    with pytest.raises(UserError, match=r"sensor_kind has shape \(2,\), not \(3,\)"):
        records.encode(dataclasses.replace(sent, sensor_kind=("mag", "grad")))


def test_records_without_the_optional_fields_are_eeg_in_microvolts(tmp_path):
    """Such shards are read, and merged with others they are given the fields, so that TFDS opens all of them."""
    new = [records.encode(w) for w in support.make_windows(0, windows=2)]
    old = [without(record, "modality", "unit", "sensor_kind") for record in new]
    assert set(tf_example.parse(new[0])) - set(tf_example.parse(old[0])) == {"modality", "unit", "sensor_kind"}
    for a, b in zip(map(records.decode, old), map(records.decode, new), strict=True):
        assert (a.modality, a.unit, a.sensor_kind) == ("eeg", "µV", ("eeg",) * 19)
        assert_same(dataclasses.asdict(a), dataclasses.asdict(b))
    for name, encoded in (("old", old), ("new", new)):
        with ShardWriter(tmp_path / name) as writer:
            for record in encoded:
                writer.write(record)
    merged = records.merge([tmp_path / "old", tmp_path / "new"], tmp_path / "set", "eeg", "train")
    records.finish(tmp_path / "set", "eeg", {"train": merged})
    assert records.open_split(tmp_path / "set", "train").read(range(4)) == [*new, *new]
    rows = take(
        pipeline.open_stream(
            pipeline.DataConfig(path=(str(tmp_path / "set"),)), "train", seed=0, training=False, also=EVERY
        ),
        1,
        batch_size=4,
    )[0]
    assert (rows["sensor_kind"] == 0).all()
    assert rows["sensor_positions_ok"].all()


def test_tfds_opens_shards_with_the_optional_fields(tmp_path):
    folder = write(tmp_path / "meg", meg_windows())
    program = f"""
import tensorflow_datasets as tfds
one = tfds.builder_from_directory({folder!r}).as_data_source("train")[3]
print(one["modality"].decode(), one["unit"].decode(), *[kind.decode() for kind in one["sensor_kind"]])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "meg fT mag grad mag\n", done.stderr
