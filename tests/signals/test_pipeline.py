"""The stream of examples: the same for every reader, and what is in it."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.signals import keyed, mapping, mixture, montage, pipeline, records, stored
from tests import support

TIME = 160  # samples of the stored windows; the model's are shorter, so that crops are drawn
CROP = 128


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    """Two caps, several shards each."""
    folder = tmp_path_factory.mktemp("corpora")
    make = support.make_shards
    return {
        "a": make(folder / "a", name="a", samples=TIME, windows=7, subjects=5, shard_bytes=1 << 15),
        "b": make(folder / "b", name="b", samples=TIME, windows=3, channels=32, labels=("task", "zeta"), subjects=4),
        "plain": make(folder / "plain", name="plain", samples=TIME, windows=4, labels=()),
        "raw": make(folder / "raw", name="raw", samples=512, windows=6, reference="A2", subjects=4),
    }


def config_of(corpora, *names, **changes) -> pipeline.DataConfig:
    return pipeline.DataConfig(**{"path": tuple(corpora[n] for n in names), "samples": CROP, **changes})


def stream_of(corpora, *names, split="train", training=True, seed=3, **changes) -> pipeline.WindowStream:
    return pipeline.open_stream(config_of(corpora, *names, **changes), split, seed=seed, training=training)


def take(stream, n, **how) -> list[dict[str, np.ndarray]]:
    rows = stream.batches(**how)
    try:
        return [batch for _, batch in zip(range(n), rows, strict=False)]
    finally:
        rows.close()


def joined(batches) -> dict[str, np.ndarray]:
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def assert_same(a, b) -> None:
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def reference_stream(corpora):
    """Examples 0 … 95 read plainly: no read-ahead, one after the other."""
    examples = stream_of(corpora, "a", "b", mask_channels=0.2, **EVERYTHING).examples
    rows = [examples.rows(np.array([i], np.uint64)) for i in range(96)]
    return joined(rows)


EVERYTHING = {
    "weights": (2.0, 1.0),
    "amplitude_jitter": 0.3,
    "flip_polarity": 0.5,
    "reverse_time": 0.5,
    "drop_channels": 0.1,
    "shift": True,
}


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 16, 40])
def test_any_number_of_processes_and_any_restart_gives_the_same_examples(corpora, reference_stream, processes, start):
    """Record, crop, hidden channels and augmentation of every example, bit for bit; in batches of 8 and of 12."""
    stream = stream_of(corpora, "a", "b", mask_channels=0.2, **EVERYTHING)
    for size in (8, 12):
        parts = [
            take(stream, 3, start=start, batch_size=size, process=p, processes=processes) for p in range(processes)
        ]
        got = joined([joined([part[k] for part in parts]) for k in range(3)])
        assert_same(got, {name: rows[start : start + 3 * size] for name, rows in reference_stream.items()})


@pytest.mark.parametrize(("workers", "process", "processes", "start"), [(2, 0, 1, 0), (3, 1, 2, 24)])
def test_any_number_of_workers_gives_the_same_examples(corpora, reference_stream, workers, process, processes, start):
    """Two workers from the start; three workers that take over in the middle, in the second of two processes."""
    stream = stream_of(corpora, "a", "b", mask_channels=0.2, **EVERYTHING)
    got = take(stream, 5, start=start, batch_size=8, process=process, processes=processes, workers=workers)
    share = 8 // processes
    rows = [start + 8 * k + process * share + i for k in range(5) for i in range(share)]
    assert_same(joined(got), {name: values[rows] for name, values in reference_stream.items()})
    assert all(type(values) is np.ndarray for values in got[0].values())


def test_batches_are_what_the_stream_says_they_are(corpora):
    stream = stream_of(corpora, "a", "b", mask_channels=0.2)
    (batch,) = take(stream, 1, start=2**33, batch_size=6)
    element = stream.element()
    assert set(batch) == set(element)
    for name, spec in element.items():
        assert (batch[name].shape, batch[name].dtype) == ((6, *spec.shape), spec.dtype), name
    assert batch["index"].tolist() == [[2, i] for i in range(6)]  # 2^33 = 2 · 2^32


# ---------------------------------------------------------------------------------------------------- order and mixture
def test_a_training_epoch_is_every_window_once_and_the_next_is_shuffled_anew(corpora):
    stream = stream_of(corpora, "a", "b")
    n = len(stream)
    assert n == 3 * 7 + 2 * 3
    order = [stream.examples.order[i] for i in range(3 * n)]
    epochs = [order[:n], order[n : 2 * n], order[2 * n :]]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = stream_of(corpora, "a", "b", seed=4).examples.order
    assert [other[i] for i in range(n)] not in epochs


def test_large_corpora_are_shuffled_whole_too(monkeypatch):
    """Grain's constant-memory shuffle, used from 2^16 records on: each once an epoch, in another order each epoch."""
    monkeypatch.setattr(mixture, "SMALL", 0)
    n = 20_000
    order = mixture.order([n - 1000, 1000], (), seed=0, shuffle=True, repeat=True)
    epochs = [np.array([order[e * n + i] for i in range(n)]) for e in range(2)]
    for epoch in epochs:
        assert (np.bincount(epoch, minlength=n) == 1).all()
        assert abs(np.corrcoef(epoch, np.arange(n))[0, 1]) < 4.5 / np.sqrt(n)
    assert (epochs[0] == epochs[1]).mean() < 0.001


def test_a_mixture_keeps_its_weights(corpora):
    """3 : 1, although the corpora have 21 and 6 windows; exact over every four."""
    stream = stream_of(corpora, "a", "b", weights=(3.0, 1.0))
    corpus = ["ab"[stream.examples.order[i] >= 21] for i in range(400)]
    assert Counter(corpus) == {"a": 300, "b": 100}


def test_evaluation_reads_every_window_once_in_order_and_pads_the_last_batch_with_weight_0(corpora):
    stream = stream_of(corpora, "a", split="val", training=False, samples=TIME, scaling="divide", divide=1.0, clip=0.0)
    windows = records.read_windows(corpora["a"], "val")
    assert len(stream) == len(windows) == 7
    for processes in (1, 2):
        parts = [take(stream, 9, start=0, batch_size=4, process=p, processes=processes) for p in range(processes)]
        batches = [joined([part[k] for part in parts]) for k in range(len(parts[0]))]
        got = joined(batches)
        assert [len(b["weight"]) for b in batches] == [4, 4]
        assert got["weight"].tolist() == [1.0] * 7 + [0.0]
        for row, window in zip(got["signal"], windows, strict=False):
            np.testing.assert_allclose(row, window.signal, atol=1e-4)
    assert [stream.labels[i] for i in got["label"][:7]] == [w.label for w in windows]


def test_label_ids_are_places_in_the_sorted_union_of_all_corpora(corpora):
    assert stream_of(corpora, "a").labels == ("rest", "task")
    both = stream_of(corpora, "a", "b", training=False, samples=TIME)
    assert both.labels == ("rest", "task", "zeta")
    got = joined(take(both, 9, batch_size=9))
    assert got["label"][:7].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert got["label"][21:27].tolist() == [1, 2, 1, 1, 2, 1]
    unlabelled = both.examples._label_ids.get(b"", -1)
    assert unlabelled == -1


# ----------------------------------------------------------------------------------------------------- what is in a row
def test_crops_lie_anywhere_and_each_offset_is_equally_likely(corpora):
    """33 offsets of a 160-sample window; the row is exactly that piece. χ² with 32 degrees of freedom, p > 0.001."""
    stream = stream_of(corpora, "a", scaling="divide", divide=1.0, clip=0.0)
    index = np.arange(2000, dtype=np.uint64)
    drawn = (keyed.uniform(3, "crop", index, 1)[:, 0] * (TIME - CROP + 1)).astype(int)
    count = np.bincount(drawn, minlength=33)
    assert len(count) == 33
    assert ((count - 2000 / 33) ** 2 / (2000 / 33)).sum() < 62.5
    (batch,) = take(stream, 1, batch_size=8)
    windows = list(records.read_windows(corpora["a"], "train"))
    for i, row in enumerate(batch["signal"]):
        whole = windows[stream.examples.order[i]].signal
        np.testing.assert_allclose(row, whole[:, drawn[i] : drawn[i] + CROP], atol=1e-4)


def test_keyed_numbers_are_uniform_and_independent():
    """The mean of 10^5 draws lies within 4.5 standard errors of 1/2; keys, places, seeds, purposes uncorrelated."""
    index = np.arange(50_000, dtype=np.uint64)
    base = keyed.uniform(0, "a", index, 2)
    assert ((base >= 0) & (base < 1)).all()
    assert abs(base.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / base.size)
    others = [base[:, 1], np.roll(base[:, 0], 1), keyed.uniform(1, "a", index, 1)[:, 0]]
    others += [keyed.uniform(0, "b", index, 1)[:, 0], keyed.uniform(0, "a", index + np.uint64(2**32), 1)[:, 0]]
    for other in others:
        assert abs(np.corrcoef(base[:, 0], other)[0, 1]) < 4.5 / np.sqrt(len(index))
    assert np.array_equal(keyed.uniform(0, "a", index[[7]], 5)[0, :2], base[7])


@pytest.mark.parametrize("scaling", ["divide", "robust", "zscore"])
@pytest.mark.parametrize("padded", [False, True])
def test_scaled_numbers_turn_back_into_microvolts(corpora, scaling, padded):
    samples = 200 if padded else TIME
    stream = stream_of(corpora, "a", training=False, samples=samples, scaling=scaling, clip=0.0)
    (batch,) = take(stream, 1, batch_size=4)
    back = batch["signal"] * batch["gain"][:, :, None] + batch["offset"][:, :, None]
    for row, signal, window in zip(back, batch["signal"], records.read_windows(corpora["a"], "train"), strict=False):
        np.testing.assert_allclose(row[:, :TIME], window.signal, atol=2e-4)
        if scaling == "zscore":
            np.testing.assert_allclose(signal[:, :TIME].mean(axis=1), 0, atol=1e-4)
            np.testing.assert_allclose(signal[:, :TIME].std(axis=1), 1, rtol=1e-3)
        if scaling == "robust":
            np.testing.assert_allclose(batch["gain"], window.scale, rtol=1e-6)
    assert batch["valid"].sum(axis=1).tolist() == [TIME] * 4
    assert (batch["signal"][:, :, TIME:] == 0).all()


def test_clipping_limits_the_scaled_numbers(corpora):
    (batch,) = take(stream_of(corpora, "a", clip=1.5), 1, batch_size=8)
    assert np.abs(batch["signal"]).max() == 1.5


def test_another_cap_is_interpolated_and_marked(corpora):
    """19 electrodes to a 32-channel template: the shared ones are themselves, the others follow the spline."""
    stream = stream_of(corpora, "a", training=False, samples=TIME, montage="1010-32", scaling="divide", clip=0.0)
    (batch,) = take(stream, 1, batch_size=2)
    names, xyz = montage.template("1010-32")
    window = records.read_windows(corpora["a"], "train")[0]
    real = np.array([name in window.ch_names for name in names])
    assert batch["channel_ok"][0].tolist() == real.astype(float).tolist()
    centre = mapping.standard_centre()
    spline = mapping.spline_matrix(montage.standard_positions(window.ch_names) - centre, xyz - centre)
    got = batch["signal"][0] * 10
    np.testing.assert_allclose(got[~real], (spline @ window.signal)[~real], atol=1e-3)
    np.testing.assert_allclose(
        got[real], window.signal[[window.ch_names.index(n) for n in names if n in window.ch_names]], atol=1e-4
    )


def test_a_bad_channel_is_interpolated_from_the_others(tmp_path):
    windows = [
        records.Window(
            **{
                **w.__dict__,
                "channel_ok": np.arange(19) != 5,
                "signal": np.where(np.arange(19)[:, None] == 5, 900.0, w.signal),
            }
        )
        for w in support.make_windows(0, windows=2)
    ]
    shards = records.write_split(tmp_path, "bad", "train", windows)
    records.finish(tmp_path, "bad", {"train": shards})
    stream = pipeline.open_stream(pipeline.DataConfig(path=(str(tmp_path),), clip=0.0), "train", seed=0, training=False)
    (batch,) = take(stream, 1, batch_size=2)
    bad = stream.ch_names.index(windows[0].ch_names[5])
    assert np.flatnonzero(batch["channel_ok"][0] == 0).tolist() == [bad]
    microvolts = batch["signal"] * batch["gain"][:, :, None]
    assert np.abs(microvolts[:, bad]).max() < 100


def test_tile_and_stretch_are_dreamdiffusions_input(corpora):
    """(128, 512) from (19, 160): rows 0, 19, 38 … are channel 0, and time is stretched by linear interpolation."""
    stream = stream_of(
        corpora, "a", training=False, mapping="tile", scaling="divide", samples=512, stretch=True, clip=0.0
    )
    (batch,) = take(stream, 1, batch_size=2)
    assert batch["signal"].shape == (2, 128, 512)
    signal = records.read_windows(corpora["a"], "train")[0].signal
    expected = np.stack([np.interp(np.linspace(0, TIME - 1, 512), np.arange(TIME), channel) for channel in signal]) / 10
    for row in range(128):
        np.testing.assert_allclose(batch["signal"][0, row], expected[row % 19], atol=1e-4)


def test_a_montage_of_its_own_keeps_the_channels(corpora):
    stream = stream_of(corpora, "b", montage="own")
    assert stream.ch_names == tuple(support.NAMES[:32])
    with pytest.raises(UserError, match=r"montage=own needs the same channels in every dataset"):
        stream_of(corpora, "a", "b", montage="own")


def test_augmentation_changes_the_signal_and_keeps_microvolts_true(corpora):
    plain = joined(take(stream_of(corpora, "a", clip=0.0), 8, batch_size=8))
    changed = joined(take(stream_of(corpora, "a", clip=0.0, flip_polarity=0.5, amplitude_jitter=0.5), 8, batch_size=8))
    ratio = changed["signal"][:, 0, 0] / plain["signal"][:, 0, 0]
    assert 16 < (ratio < 0).sum() < 48  # of 64, p = 1/2: ± 4 standard deviations
    assert (np.abs(ratio) >= np.exp(-0.5) - 1e-3).all()
    assert (np.abs(ratio) <= np.exp(0.5) + 1e-3).all()
    np.testing.assert_allclose(
        changed["signal"] * changed["gain"][:, :, None], plain["signal"] * plain["gain"][:, :, None], atol=1e-3
    )
    turned = joined(take(stream_of(corpora, "a", clip=0.0, reverse_time=1.0), 8, batch_size=8))
    np.testing.assert_array_equal(turned["signal"], plain["signal"][:, :, ::-1])
    lost = joined(take(stream_of(corpora, "a", clip=0.0, drop_channels=0.25), 8, batch_size=8))
    gone = (lost["signal"] == 0).all(axis=2)
    np.testing.assert_array_equal(lost["channel_ok"], (~gone).astype(np.float32))
    assert abs(gone.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / gone.size)
    validation = {"split": "val", "training": False}
    quiet = joined(
        take(
            stream_of(corpora, "a", **validation, **{k: v for k, v in EVERYTHING.items() if k != "weights"}),
            1,
            batch_size=4,
        )
    )
    assert_same(quiet, joined(take(stream_of(corpora, "a", **validation), 1, batch_size=4)))


def test_shifted_crops_read_on_into_the_next_window_of_the_same_recording(corpora):
    """Whole windows of 160: each row is the recording's own piece, from any of 160 offsets, never across recordings."""
    stream = stream_of(corpora, "plain", samples=TIME, shift=True, scaling="divide", divide=1.0, clip=0.0)
    got = joined(take(stream, 8, batch_size=8))
    windows = list(records.read_windows(corpora["plain"], "train"))
    whole = {
        r: np.concatenate([w.signal for w in windows if w.recording == r], axis=1)
        for r in dict.fromkeys(w.recording for w in windows)
    }
    offsets = set()
    for i, row in enumerate(got["signal"]):
        window = windows[stream.examples.order[i]]
        first = round(window.start * window.sfreq)
        last = first + TIME == whole[window.recording].shape[1]
        offset = 0 if last else int(keyed.uniform(3, "crop", np.array([i]), 1)[0, 0] * TIME)
        np.testing.assert_allclose(row, whole[window.recording][:, first + offset :][:, :TIME], atol=1e-3)
        offsets.add(offset)
    assert len(offsets) > 20
    labelled = joined(take(stream_of(corpora, "a", samples=TIME, shift=True), 1, batch_size=8))
    plain = joined(take(stream_of(corpora, "a", samples=TIME), 1, batch_size=8))
    assert_same(labelled, plain)  # neighbours with another label are not read on into


def test_no_crop_reads_on_across_a_discontinuity():
    """Windows that touch in time by the samples of the file, of which the second begins after a gap."""
    first, second = support.make_windows(0, windows=2, labels=())
    after_gap = dataclasses.replace(second, flags=(records.APART,))
    one, two, three = (stored.unpack(records.encode(w)) for w in (first, second, after_gap))
    assert stored.follow(one, two).following is two
    assert stored.follow(one, three).following is None


# ------------------------------------------------------------------------------------------------------ hidden channels
def residual(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Variance of y (time × n) that least squares from x (time × m) leaves."""
    coefficients = np.linalg.lstsq(x, y, rcond=1e-5)[0]
    return (y - x @ coefficients).var(axis=0)


@pytest.mark.parametrize("how", [{"montage": "1010-32"}, {"mapping": "tile"}])
def test_masked_channels_cannot_be_read_from_the_reference(tmp_path, how):
    """Least squares from the visible channels to a masked one explains no more than on the unreferenced recording.

    The recording is average-referenced, so hiding channels afterwards would give them away: x_hidden = -Σ x_visible.
    """
    share, samples = 0.06, 1500  # one of 19 channels: the case in which the average gives everything away
    raw = next(support.make_windows(0, windows=1, samples=samples, reference="A2"))
    rng = np.random.default_rng(0)
    unreferenced = raw.signal + rng.normal(0, 3, raw.signal.shape)
    referenced = unreferenced - unreferenced.mean(axis=0)
    window = records.Window(**{**raw.__dict__, "signal": referenced, "reference": "average"})
    shards = records.write_split(tmp_path, "avg", "train", [window])
    records.finish(tmp_path, "avg", {"train": shards})
    config = pipeline.DataConfig(
        path=(str(tmp_path),), samples=samples, scaling="divide", clip=0.0, mask_channels=share, **how
    )
    stream = pipeline.open_stream(config, "train", seed=1, training=True)
    got = joined(take(stream, 6, batch_size=1))
    names = stream.ch_names or raw.ch_names
    leaked = []
    for signal, target, mask in zip(got["signal"], got["target"], got["channel_mask"], strict=True):
        hidden = np.flatnonzero(mask)[:1]
        channel = raw.ch_names.index(names[hidden[0] % len(names)])
        visible = np.arange(19) != channel
        seen, true = 10 * np.unique(signal.astype(float), axis=0).T, 10 * target[hidden].T.astype(float)
        allowed = residual(unreferenced[[channel]].T, unreferenced[visible].T)
        assert residual(true, seen) >= 0.999 * allowed
        leaked.append(residual(referenced[[channel]].T, referenced[visible].T) / allowed)
    assert np.max(leaked) < 1e-6  # what hiding after the reference would have done


def test_hidden_channels_are_real_ones_of_the_wanted_number_and_only_they_are_missing(corpora):
    """30 % of 19 electrodes: 6 each time, others each time; input and target agree wherever nothing is hidden."""
    got = joined(take(stream_of(corpora, "a", mask_channels=0.3, clip=0.0), 8, batch_size=8))
    assert got["channel_mask"].sum(axis=1).tolist() == [6.0] * 64
    assert len({tuple(m) for m in got["channel_mask"]}) > 60
    assert abs(got["channel_mask"].mean(axis=0) - 6 / 19).max() < 4.5 * np.sqrt(6 / 19 * 13 / 19 / 64)
    hidden = got["channel_mask"].astype(bool)
    np.testing.assert_allclose(got["signal"][~hidden], got["target"][~hidden], atol=1e-6)
    assert (np.abs(got["signal"] - got["target"]).max(axis=2)[hidden] > 1e-2).all()
    to_32 = joined(take(stream_of(corpora, "a", mask_channels=0.3, montage="1010-32"), 2, batch_size=8))
    assert (to_32["channel_mask"] <= to_32["channel_ok"]).all()  # only what is an electrode can be hidden
    raw = joined(take(stream_of(corpora, "raw", mask_channels=0.3, clip=0.0), 1, batch_size=4))
    plain = joined(take(stream_of(corpora, "raw", clip=0.0), 1, batch_size=4))
    np.testing.assert_allclose(raw["target"], plain["signal"], atol=1e-5)  # no average, so no new reference


def test_a_tiled_hidden_channel_is_absent_from_every_repetition(corpora):
    got = joined(take(stream_of(corpora, "a", mapping="tile", mask_channels=0.3, clip=0.0), 1, batch_size=4))
    for signal, mask in zip(got["signal"], got["channel_mask"], strict=True):
        np.testing.assert_array_equal(mask, mask[np.arange(128) % 19])
        assert (signal[mask == 1] == 0).all()


# ------------------------------------------------------------------------------------------------------------- bad luck
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_shard_is_named_by_the_stream(corpora, tmp_path, workers):
    folder = tmp_path / "cut"
    shutil.copytree(corpora["a"], folder)
    shard = sorted(folder.glob("a-train*"))[-1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    stream = pipeline.open_stream(
        pipeline.DataConfig(path=(str(folder),), samples=CROP), "train", seed=0, training=True
    )
    with pytest.raises(UserError, match=r"a-train.*truncated or damaged") as error:
        take(stream, 20, batch_size=8, workers=workers)
    assert shard.name in str(error.value)


def test_mistakes_are_one_sentence(corpora):
    with pytest.raises(UserError, match=r"holds windows at 256 Hz but data.sfreq is 128; prepare it at 128 Hz, or set"):
        stream_of(corpora, "a", sfreq=128.0)
    with pytest.raises(UserError, match="no montage template 1020-91; did you mean 1020-19"):
        stream_of(corpora, "a", montage="1020-91")
    with pytest.raises(UserError, match="has no split tset; did you mean test"):
        stream_of(corpora, "a", split="tset")
    with pytest.raises(UserError, match=r"data\.path is empty"):
        pipeline.open_stream(pipeline.DataConfig(), "train", seed=0, training=True)
    with pytest.raises(UserError, match="a batch of 6 does not divide among 4 processes"):
        stream_of(corpora, "a").batches(batch_size=6, processes=4)
    with pytest.raises(ValueError, match=r"data\.weights has 1 entries for 2 paths"):
        config_of(corpora, "a", "b", weights=(1.0,))


def test_an_interrupted_reader_leaves_no_noise_and_no_shared_memory(corpora, tmp_path):
    """A program that ends in the middle, arrays still in use, workers running: exit code its own, stderr empty."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import jax
from dreamjax.signals import pipeline

if __name__ == "__main__":
    config = pipeline.DataConfig(path=({corpora["a"]!r},), samples={CROP})
    rows = pipeline.open_stream(config, "train", seed=0, training=True).batches(batch_size=8, workers=1)
    kept = [jax.device_put(next(rows)["signal"]) for _ in range(3)]
    raise SystemExit(3)
"""
    )
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=False, env=environment, timeout=200
    )
    assert (done.returncode, done.stderr) == (3, "")
    if before:
        assert {n for n in set(os.listdir("/dev/shm")) - before if n.startswith("psm_")} == set()


def test_windows_without_a_place_count_as_padding_and_the_others_go_on(tmp_path):
    """A device whose channels are called EXG 1 … beside a real cap: nothing is learned from it, nothing ends."""
    from dataclasses import replace

    unknown = [
        replace(w, ch_names=tuple(f"EXG {i}" for i in range(8)), xyz=np.full((8, 3), np.nan))
        for w in support.make_windows(0, channels=8, windows=3, dataset="device")
    ]
    known = list(support.make_windows(1, channels=19, windows=3, dataset="cap"))
    for name, made in (("device", unknown), ("mixed", [*unknown, *known])):
        records.finish(
            tmp_path / name, name, {"train": records.write_split(tmp_path / name, name, "train", iter(made))}
        )

    mixed = pipeline.open_stream(pipeline.DataConfig(path=(str(tmp_path / "mixed"),)), "train", seed=0, training=False)
    rows = joined(take(mixed, 1, start=0, batch_size=6))
    np.testing.assert_array_equal(rows["valid"].any(axis=1), [False] * 3 + [True] * 3)
    np.testing.assert_array_equal(rows["channel_ok"].any(axis=1), [False] * 3 + [True] * 3)
    assert np.isfinite(rows["signal"]).all()
    with pytest.raises(UserError, match="none of the 3 windows looked at in split train has a usable channel"):
        pipeline.open_stream(pipeline.DataConfig(path=(str(tmp_path / "device"),)), "train", seed=0, training=True)
