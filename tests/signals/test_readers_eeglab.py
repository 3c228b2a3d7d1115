"""EEGLAB: what the headers of a `.set` claim is compared with its size before MNE opens it."""

import struct
import tracemalloc

import numpy as np
import pytest
from recorded import noise
from set_files import LAYOUTS, fields, hdf5

from dreamjax.errors import UserError
from dreamjax.signals.recordings.opening import open_recording
from dreamjax.signals.recordings.readers import mne_formats

pytest.importorskip("mne")
SIGNAL = noise(4, 8, sfreq=250.0).astype("f4")
CLAIMS = {
    "samples": ({"pnts": 2.0**40}, r"promises 4 x 1099511627776 x 1 values, which its \d+ bytes do not hold"),
    "channels": ({"nbchan": 2.0**31}, r"promises 2147483648 x 2000 x 1 values, which its \d+ bytes do not hold"),
    "trials": ({"trials": 2.0**33}, r"promises 4 x 2000 x 8589934592 values, which"),
    "negative": ({"pnts": -5.0}, r"promises 4 x -5 x 1 values, which"),
    "not a number": ({"nbchan": float("nan")}, r"promises nan x 2000 x 1 values, which"),
    "not those of the signal": ({"pnts": 1993.0}, "promises 4 x 1993 x 1 values, but its signal has"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_each_layout_of_a_set_file(tmp_path, layout):
    recording = open_recording(LAYOUTS[layout](tmp_path / "a.set", fields(SIGNAL)))
    np.testing.assert_allclose(recording.read(0, 2000), SIGNAL, atol=1e-4)
    assert (recording.ch_names, recording.sfreq) == (("Fz", "Cz", "Pz", "Oz"), 250.0)


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_refuses_counts_before_the_library_opens_the_file(tmp_path, monkeypatch, layout, claim):
    wrong, sentence = CLAIMS[claim]
    monkeypatch.setattr(mne_formats, "open_with_mne", lambda *args, **options: pytest.fail("opened"))
    with pytest.raises(UserError, match=sentence):
        open_recording(LAYOUTS[layout](tmp_path / "a.set", fields(SIGNAL, **wrong)))


@pytest.mark.parametrize("layout", ["struct", "variables", "group of 7.3", "variables of 7.3"])
def test_reads_only_headers_of_a_large_file(tmp_path, layout):
    """18 MiB, in which a struct of MATLAB 5 hides the sizes: less than 2 MiB of memory."""
    path = LAYOUTS[layout](tmp_path / "a.set", fields(np.zeros((4, 1_200_000), "f4"), pnts=2.0**45, times=np.zeros(1)))
    assert path.stat().st_size > 18 << 20
    tracemalloc.start()
    with pytest.raises(UserError, match="bytes do not hold"):
        mne_formats.check_set(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


@pytest.mark.parametrize("layout", ["struct", "packed struct", "variables"])
def test_refuses_an_array_that_is_longer_than_its_file(tmp_path, layout):
    """A file cut within the signal, or an element whose tag states too many bytes."""
    path = LAYOUTS[layout](tmp_path / "a.set", fields(SIGNAL))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"its headers promise more than its \d+ bytes hold; restore it"):
        open_recording(path)
    if layout == "struct":
        tag = struct.pack("<II", 14, 2**31)
        path.write_bytes(content[:128] + tag + content[136:])
        with pytest.raises(UserError, match="promise more than"):
            open_recording(path)


def test_refuses_a_large_array_that_takes_no_space(tmp_path):
    """HDF5 states 2^40 values and stores none of them."""
    h5py = pytest.importorskip("h5py")
    path = hdf5(tmp_path / "a.set", fields(SIGNAL), True)
    with h5py.File(path, "a") as file:
        file.create_dataset("EEG/etc", shape=(1 << 20, 1 << 20), chunks=(1024, 1024), dtype="f8")
    with pytest.raises(UserError, match="its headers promise more than"):
        open_recording(path)


@pytest.mark.parametrize("way", ["link", "data", "virtual"])
def test_refuses_a_set_file_that_reads_another_file(tmp_path, way):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(8 * 8000))
    path = hdf5(tmp_path / "a.set", {k: v for k, v in fields(SIGNAL).items() if k != "data"}, True)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["data"] = np.zeros((2000, 4))
    with h5py.File(path, "a") as file:
        if way == "link":
            file["EEG/data"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/data")
        elif way == "data":
            file["EEG"].create_dataset("data", (2000, 4), "f8", external=[(str(tmp_path / "secret"), 0, 64000)])
        else:
            layout = h5py.VirtualLayout((2000, 4), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "data", (2000, 4))
            file["EEG"].create_virtual_dataset("data", layout)
    with pytest.raises(UserError, match="a part of it lies in another file; save it whole"):
        open_recording(path)


@pytest.mark.parametrize(("samples", "kept", "note"), [
    (1500, 1500, "the signal file was cut short: 1500 of 2000 samples"),
    (1999.5, 1999, "the signal file was cut short: 1999 of 2000 samples"),
    (2600, 2000, "the signal file has 600 samples more than the header states: left out"),
])  # fmt: skip
def test_keeps_what_a_signal_file_of_another_length_holds(tmp_path, samples, kept, note):
    path = LAYOUTS["struct"](tmp_path / "a.set", fields(SIGNAL, data="a.fdt", times=np.zeros(1)))
    longer = np.concatenate([SIGNAL, SIGNAL], axis=1)
    (tmp_path / "a.fdt").write_bytes(longer.T.tobytes()[: int(samples * 16)])
    recording = open_recording(path)
    assert (recording.n_samples, recording.segments) == (kept, ((0, kept),))
    np.testing.assert_allclose(recording.read(0, kept), SIGNAL[:, :kept], atol=1e-4)
    assert note in recording.notes
    with pytest.raises(UserError, match=r"its header states 2000 samples and its signal file has \d+; restore it, or"):
        open_recording(path, strict=True)


def test_refuses_trials_that_the_signal_file_does_not_hold(tmp_path):
    values = fields(SIGNAL, data="a.fdt", times=np.zeros(1), pnts=400.0, trials=5.0)
    path = LAYOUTS["struct"](tmp_path / "a.set", values)
    (tmp_path / "a.fdt").write_bytes(SIGNAL[:, :1500].T.tobytes())
    with pytest.raises(UserError, match="states 5 trials of 400 samples, but its signal file has 1500 samples in all"):
        open_recording(path)
