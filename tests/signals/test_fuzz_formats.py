"""Mutated headers of the formats beside EDF and BrainVision: each file costs at most itself.

Most go through MNE and some through C, so as in `prepare` they are opened in a child process: one that crashes, hangs
or runs out of memory is a reason for its file, and the intact file after it still opens.
"""

import shutil
import struct
from pathlib import Path

import failing_tasks
import numpy as np
import pytest
from planted import SECRETS, planted_eeglab, planted_fif
from planted_formats import WRITERS

from dreamjax.errors import UserError
from dreamjax.signals.preparation import workers
from dreamjax.signals.recordings.opening import open_recording, source_of
from dreamjax.signals.recordings.scrub import scrubbed

TIMEOUT_S = 5.0  # without a sign of life; an intact file takes a tenth of a second
HEADER = {"gdf 2": 256 * 5, "neuroscan": 1200, "nihon kohden": 0x2000, "eeglab": 3000, "fif": 6000, "ant": 600}
WORDS = (b"", b"0", b"-1", b"99999999", b"1e99", b"nan", b"inf", b"\xff\xfe", b",,,,", b"\n", b'"')
EXTREMES = (b"\x00" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\x01" + b"\x00" * 7)


def mutate(data: bytes, rng: np.random.Generator, header: int, text: bool) -> bytes:
    """A few of: a number of 1 to 8 bytes at an extreme, another byte, bytes cut out or doubled, the file cut short."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        kind, at = rng.integers(8), int(rng.integers(min(header, len(out)) + 1))
        if text and kind < 5:
            value = WORDS[rng.integers(len(WORDS))]
            out[at : at + int(rng.integers(1, 8))] = value
        elif kind < 5:
            width = int(rng.choice([1, 2, 4, 8]))
            at -= at % width
            out[at : at + width] = EXTREMES[rng.integers(len(EXTREMES))][-width:]
        elif kind == 5:
            out[at : at + 1] = bytes([rng.integers(256)])
        elif kind == 6:
            length = int(rng.integers(1, 40))
            out[at : at + length] = b"" if rng.random() < 0.5 else out[at : at + length] * 2
        elif rng.random() < 0.5:
            del out[int(rng.integers(len(out) + 1)) :]
    return bytes(out)


def seed_of(kind: str, folder: Path, real: Path) -> Path:
    folder.mkdir()
    if kind in ("eeglab", "fif"):
        return {"eeglab": planted_eeglab, "fif": planted_fif}[kind](folder)
    return WRITERS[kind](folder, "seed", real)


def mutated(kind: str, seed: Path, folder: Path, rng: np.random.Generator) -> Path:
    """A copy of the seed's folder in which one file, or one part of an MFF folder, is another."""
    shutil.copytree(seed.parent, folder)
    path = folder / seed.name
    names = [path]
    if path.is_dir():
        names = [p for p in path.iterdir() if p.suffix in (".xml", ".bin") and p.stat().st_size]
    elif kind == "nihon kohden":
        names = [path, path, path.with_suffix(".21E"), path.with_suffix(".LOG"), path.with_suffix(".PNT")]
    elif kind in ("numpy", "matlab"):
        names = [path, path.with_suffix(".json")]
    chosen = names[rng.integers(len(names))]
    text = chosen.suffix in (".csv", ".tsv", ".txt", ".json", ".xml", ".21E")
    chosen.chmod(0o644)
    chosen.write_bytes(mutate(chosen.read_bytes(), rng, HEADER.get(kind, 300), text))
    return path


def run(kind: str, tmp_path: Path, real: Path, cases: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    intact = seed_of(kind, tmp_path / "seed", real)
    paths = [mutated(kind, intact, tmp_path / f"case{i}", rng) for i in range(cases)]
    files = [*map(str, paths), str(intact)]
    outcomes = {o.index: o for o in workers.run(failing_tasks.open_and_read, files, workers=1, timeout_s=TIMEOUT_S)}
    assert sorted(outcomes) == list(range(cases + 1))
    assert not outcomes[cases].reason, "the intact file after all of them"
    size = sum(p.stat().st_size for p in intact.parent.rglob("*") if p.is_file())
    for i, path in enumerate(paths):
        reason = outcomes[i].reason
        assert "\n" not in reason
        told = scrubbed(reason, source_of(intact)).replace(str(path), "")
        assert not [s for s in SECRETS if s in told]
        if not reason:
            assert outcomes[i].result["values"] <= 64 * size, "a header that promises a flood of samples passed"
    refused = sum(bool(outcomes[i].reason) for i in range(cases))
    assert 0 < refused < cases, "mutations that never or always pass test nothing"


KINDS = ("gdf 2", "neuroscan", "ant", "nihon kohden", "egi", "eeglab", "fif", "muse", "mind monitor", "openbci",
         "emotiv", "numpy", "xdf", "delimited", "matlab")  # fmt: skip
NEEDS = {"ant": "antio", "egi": "mffpy", "xdf": "pyxdf"}


def real_folder(kind: str, request: pytest.FixtureRequest) -> Path:
    if kind not in ("muse", "mind monitor", "openbci", "emotiv", "numpy", "xdf", "delimited", "matlab"):
        pytest.importorskip("mne")
    pytest.importorskip(NEEDS.get(kind, "numpy"))
    real = kind in ("neuroscan", "ant", "nihon kohden", "egi")
    return request.getfixturevalue("real_eeg") if real else Path()


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_headers_cost_their_file_alone(kind, tmp_path, request):
    run(kind, tmp_path, real_folder(kind, request), 40, seed=1)


def test_a_header_that_promises_a_flood_is_refused(tmp_path):
    """A million records (position 236) of a file that holds eight."""
    pytest.importorskip("mne")
    path = WRITERS["gdf 2"](tmp_path, "a", Path())
    data = bytearray(path.read_bytes())
    assert open_recording(path).n_samples == 8 * 256
    struct.pack_into("<q", data, 236, 10**6)
    path.write_bytes(data)
    with pytest.raises(UserError, match="promises 256000000 samples"):
        open_recording(path)


@pytest.mark.hostile
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_headers_cost_their_file_alone(kind, tmp_path, request):
    run(kind, tmp_path, real_folder(kind, request), 400, seed=2)
