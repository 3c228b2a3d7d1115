"""What is in a row of the stream: crop, scale, montage, augmentation, hidden channels."""

import dataclasses

import numpy as np
import pytest
from streams import CROP, EVERYTHING, TIME, assert_same, joined, make_corpora, stream_of, take

from dreamjax.errors import UserError
from dreamjax.signals.datasets import mapping, pipeline, record_view, records
from dreamjax.signals.datasets import rng as keyed
from dreamjax.signals.recordings import montage
from tests import support


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    return make_corpora(tmp_path_factory.mktemp("corpora"))


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
        whole = windows[stream.order[i]].signal
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


@pytest.mark.parametrize("samples", [TIME, CROP])
def test_shifted_crops_read_on_into_the_next_window_of_the_same_recording(corpora, samples):
    """From windows of 160: each row is the recording's own piece, from any of 160 offsets, never across recordings."""
    stream = stream_of(corpora, "plain", samples=samples, shift=True, scaling="divide", divide=1.0, clip=0.0)
    got = joined(take(stream, 8, batch_size=8))
    windows = list(records.read_windows(corpora["plain"], "train"))
    whole = {
        r: np.concatenate([w.signal for w in windows if w.recording == r], axis=1)
        for r in dict.fromkeys(w.recording for w in windows)
    }
    offsets = set()
    for i, row in enumerate(got["signal"]):
        window = windows[stream.order[i]]
        first = round(window.start * window.sfreq)
        last = first + TIME == whole[window.recording].shape[1]
        starts = TIME - samples + 1 if last else TIME
        offset = int(keyed.uniform(3, "crop", np.array([i]), 1)[0, 0] * starts)
        np.testing.assert_allclose(row, whole[window.recording][:, first + offset :][:, :samples], atol=1e-3)
        offsets.add(offset)
    assert len(offsets) > 20
    labelled = joined(take(stream_of(corpora, "a", samples=TIME, shift=True), 1, batch_size=8))
    plain = joined(take(stream_of(corpora, "a", samples=TIME), 1, batch_size=8))
    assert_same(labelled, plain)  # neighbours with another label are not read on into


def test_no_crop_reads_on_across_a_discontinuity():
    """Windows that touch in time by the samples of the file, of which the second begins after a gap."""
    first, second = support.make_windows(0, windows=2, labels=())
    after_gap = dataclasses.replace(second, flags=(records.APART,))
    one, two, three = (record_view.unpack(records.encode(w)) for w in (first, second, after_gap))
    assert record_view.follow(one, two).following is two
    assert record_view.follow(one, three).following is None


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
