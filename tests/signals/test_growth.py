"""The work on a study grows in proportion to its recordings: counted in Python's instructions, not in seconds."""

import numpy as np
import pytest

from dreamjax.signals.preparation import copies
from dreamjax.signals.recordings import identity
from dreamjax.signals.recordings.readers import companions, subjects
from dreamjax.signals.recordings.readers.recording import Source

PROPORTIONAL = 2.3  # times the work for twice the recordings; 4 where every one is compared with every other


def shared_patterns(recordings, seed=0, patterns=1200):
    """Return sketches of which many patterns occur in several recordings, a few of these at one offset."""
    rng = np.random.default_rng(seed)
    codes = [np.unique(rng.integers(0, patterns, 60)) for _ in range(recordings)]
    times = [rng.integers(0, 60_000, len(one)) for one in codes]
    for i, j in rng.integers(0, recordings, (recordings // 4, 2)):
        codes[j], times[j] = codes[i].copy(), times[i] + rng.integers(-60, 60, len(times[i]))
    return [list(zip(*map(np.ndarray.tolist, pair), strict=True)) for pair in zip(codes, times, strict=True)]


def compared_one_by_one(sketches):
    """Return what `copies.alike` returns, by its definition."""
    counts = np.bincount([code for sketch in sketches for code, _ in sketch])
    pairs = []
    for j in range(len(sketches)):
        for i in range(j):
            one, other = dict(sketches[i]), dict(sketches[j])
            common = [code for code in one if code in other and counts[code] <= copies.COMMON]
            offsets = np.array([other[code] - one[code] for code in common])
            near = np.abs(offsets[:, None] - offsets[None]) <= 1e3 * copies.SAME_S
            if len(offsets) and near.sum(1).max() >= copies.MATCHES:
                pairs.append((i, j))
    return sorted(pairs)


@pytest.mark.parametrize("at_once", [1, 100, 1 << 16])
def test_finds_the_copies_that_a_comparison_one_by_one_finds(at_once, monkeypatch):
    monkeypatch.setattr(copies, "COMPARED", at_once)
    monkeypatch.setattr(copies, "COMMON", 4)
    sketches = [*shared_patterns(30), [], *shared_patterns(5, seed=1)]
    expected = compared_one_by_one(sketches)
    assert 2 < len(expected) < 300
    assert copies.alike(sketches) == expected
    assert copies.alike([]) == copies.alike([[], []]) == []


def test_the_search_for_copies_does_not_loop_over_pairs(instructions):
    few, many = (instructions(copies.alike, shared_patterns(n)) for n in (100, 200))
    assert many < PROPORTIONAL * few


def test_people_who_share_recordings_are_joined_in_proportional_work(instructions):
    """Chains, which join many; each has the first of its people as leader."""

    def chains(count):
        people = [f"{chain:04d} {i}" for chain in range(count) for i in range(4)]
        return people, [(f"{chain:04d} {i + 1}", f"{chain:04d} {i}") for chain in range(count) for i in (2, 0, 1)]

    assert identity.leaders(*chains(3)) == {person: f"{person[:4]} 0" for person in chains(3)[0]}
    few, many = (instructions(identity.leaders, *chains(n)) for n in (50, 100))
    assert many < PROPORTIONAL * few


def test_folders_given_one_by_one_are_compared_in_proportional_work(tmp_path, instructions):
    def given(count):
        folders = [tmp_path / str(count) / f"anna{i:03d}" for i in range(count)]
        for folder in folders:
            folder.mkdir(parents=True)
        return [(Source(str(folder / f"{folder.name}.edf"), "edf", subject=""), folder) for folder in folders]

    few, many = (instructions(subjects.compared, given(n), False) for n in (100, 200))
    assert many < PROPORTIONAL * few


@pytest.mark.parametrize(("reader", "suffix"), [("fif", "_raw.fif"), ("eeglab", ".set"), ("brainvision", ".vhdr")])
def test_a_folder_of_many_recordings_is_listed_once(reader, suffix, tmp_path, instructions):
    """Each names files of the folder; they are looked up, and not compared with every other one."""

    def study(count):
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(count):
            text = "\0" * 128 + f"s{i}.fdt\0t{i}.fif\0"
            if reader == "brainvision":
                text = f"Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nDataFile=s{i}.eeg\n"
            (folder / f"s{i}{suffix}").write_text(text)
            for other in (f"s{i}.fdt", f"s{i}.eeg", f"t{i}.fif"):
                (folder / other).touch()
        return [Source(str(folder / f"s{i}{suffix}"), reader) for i in range(count)]

    def named(sources):
        return [[path.name for path in companions.named_in(source)] for source in sources]

    expected = {"fif": "t{}.fif", "eeglab": "s{}.fdt", "brainvision": "s{}.eeg"}[reader]
    assert named(study(3)) == [[expected.format(i)] for i in range(3)]
    few, many = (instructions(named, study(n)) for n in (20, 40))
    assert many < PROPORTIONAL * few
