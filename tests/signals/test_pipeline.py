"""The stream of examples: the same for every reader, in the order it promises, also under bad luck."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from streams import CROP, EVERYTHING, TIME, assert_same, config_of, joined, make_corpora, stream_of, take

from dreamjax.errors import UserError
from dreamjax.signals.datasets import examples, pipeline, records
from tests import support


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    return make_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def reference_stream(corpora):
    """Examples 0 … 95 read plainly: no read-ahead, one after the other."""
    examples = stream_of(corpora, "a", "b", mask_channels=0.2, **EVERYTHING)
    rows = [examples.rows(np.array([i], np.uint64)) for i in range(96)]
    return joined(rows)


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
def test_epoch_has_every_window_once_and_the_next_another_order(corpora):
    stream = stream_of(corpora, "a", "b")
    n = len(stream)
    assert n == 3 * 7 + 2 * 3
    order = [stream.order[i] for i in range(3 * n)]
    epochs = [order[:n], order[n : 2 * n], order[2 * n :]]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = stream_of(corpora, "a", "b", seed=4).order
    assert [other[i] for i in range(n)] not in epochs


def test_a_share_of_the_windows_is_the_same_for_every_seed_and_lies_in_larger_shares(corpora):
    """Of each corpus; what is scored stays whole."""

    def read(fraction, count, seed=3):
        stream = stream_of(corpora, "a", "b", fraction=fraction, seed=seed, samples=TIME)
        assert len(stream) == count
        rows = stream.rows(np.arange(2 * count, dtype=np.uint64))["signal"]  # two training epochs
        return {row.tobytes() for row in rows}

    found = {}
    for fraction, count in ((0.25, 5 + 2), (0.5, 10 + 3), (1.0, 21 + 6)):
        found[fraction] = read(fraction, count)
        assert len(found[fraction]) == count
        assert read(fraction, count, seed=4) == found[fraction]
    assert found[0.25] < found[0.5] < found[1.0]
    assert len(stream_of(corpora, "a", split="val", training=False, fraction=0.25)) == 7


def test_large_corpora_are_shuffled_whole_too(monkeypatch):
    """Grain's constant-memory shuffle, used from 2^16 records on: each once an epoch, in another order each epoch."""
    monkeypatch.setattr(examples, "SMALL", 0)
    n = 20_000
    order = examples.mixture([n - 1000, 1000], (), seed=0, shuffle=True)
    epochs = [np.array([order[e * n + i] for i in range(n)]) for e in range(2)]
    for epoch in epochs:
        assert (np.bincount(epoch, minlength=n) == 1).all()
        assert abs(np.corrcoef(epoch, np.arange(n))[0, 1]) < 4.5 / np.sqrt(n)
    assert (epochs[0] == epochs[1]).mean() < 0.001


def test_a_mixture_keeps_its_weights(corpora):
    """3 : 1, although the corpora have 21 and 6 windows; exact over every four."""
    stream = stream_of(corpora, "a", "b", weights=(3.0, 1.0))
    corpus = ["ab"[stream.order[i] >= 21] for i in range(400)]
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
    unlabelled = both._label_ids.get(b"", -1)
    assert unlabelled == -1


# ------------------------------------------------------------------------------------------------------------- bad luck
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_shard_is_named_by_the_stream(corpora, tmp_path, workers):
    folder = tmp_path / "cut"
    shutil.copytree(corpora["a"], folder)
    shard = sorted(folder.glob("a-train*"))[-1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    config = pipeline.DataConfig(path=(str(folder),), samples=CROP)
    with pytest.raises(UserError, match=r"a-train.*truncated or damaged"):
        pipeline.open_stream(config, "train", seed=0, training=True)
    stream = pipeline.WindowExamples(config, "train", seed=0, training=True)
    with pytest.raises(UserError, match=r"a-train.*truncated or damaged") as error:
        take(stream, 20, batch_size=8, workers=workers)
    assert shard.name in str(error.value)


def test_rejects_wrong_data_settings(corpora):
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
    with pytest.raises(ValueError, match=r"data\.fraction is 0, but it must be a share above 0"):
        config_of(corpora, "a", fraction=0)
    with pytest.raises(ValueError, match=r"data\.shift reads into windows that data\.fraction leaves out"):
        config_of(corpora, "a", fraction=0.5, shift=True)
    with pytest.raises(ValueError, match=r"data\.weights has 1 entries for 2 paths"):
        config_of(corpora, "a", "b", weights=(1.0,))


def test_an_interrupted_reader_leaves_no_noise_and_no_shared_memory(corpora, tmp_path):
    """A program that ends in the middle, arrays still in use, workers running: exit code its own, stderr empty."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import jax
from dreamjax.signals.datasets import pipeline

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
    with pytest.raises(UserError, match=r"no window has a usable electrode of montage 1020-19 \(recorded: EXG 0, "):
        pipeline.open_stream(pipeline.DataConfig(path=(str(tmp_path / "device"),)), "train", seed=0, training=True)
