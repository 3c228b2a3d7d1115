"""Names, dates and remarks to plant in recordings, and the search for them in everything that is written."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from edf_files import tal, write_edf
from recorded import noise

from dreamjax.signals.datasets import records, tf_example

SECRETS = (
    "Mustermann", "Hannelore", "MCH-0234567", "02-MAI-1951", "1951-05-02", "_1951", "17-MAR-2003", "2003-03-17",
    "20030317", "17.03.03", "09.41.27", "09:41:27", "Frankenstein", "Igor", "epilepsy", "Station_7B",
)  # fmt: skip


def everything_written(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset; shards as their decompressed records, the report with its inlined images dropped."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and ".array_record-" not in path.name:
            found[path.name] = path.read_bytes()
    for split in records.load_dataset(folder)["splits"]:
        reader = records.open_split(folder, split)
        found[split] = b"\n".join(_texts(reader[i]) for i in range(len(reader)))
    return found


def _texts(record: bytes) -> bytes:
    """Everything in a record but the numbers: digits may turn up in compressed samples by chance."""
    kept = {}
    for name, feature in tf_example.parse(record).items():
        if name not in ("signal/value", "step", "offset", "xyz", "valid", "channel_ok", "sfreq", "start", "scale"):
            kept[name] = [bytes(v) for v in feature.bytes_list.value]
    return repr(kept).encode()


def _raw(folder: Path) -> dict[str, bytes]:
    """The whole records, numbers too, and the shard files as they are; for secrets too long to turn up by chance."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.array_record-*")}
    for split in records.load_dataset(folder)["splits"]:
        reader = records.open_split(folder, split)
        found[f"bytes of {split}"] = b"\n".join(reader[i] for i in range(len(reader)))
    return found


def _said_in_png(png: bytes) -> bytes:
    """Every chunk of a PNG that is no image: dates, authors, software."""
    said, at = b"", 8
    while at + 8 <= len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        said += b"" if kind in (b"IDAT", b"PLTE") else kind + png[at + 8 : at + 8 + length]
        at += 12 + length
    return said


LONG = 9  # characters: in a hundred megabytes of samples there is none by chance


def leaks(folder: Path, said: str, secrets: Sequence[str] = SECRETS) -> list[tuple[str, str]]:
    """(secret, where) for every secret found."""
    written = {**everything_written(folder), "the log": said.encode()}
    html, *inlined = written["report.html"].split(b"base64,")
    images = [base64.b64decode(p.split(b'"', 1)[0]) for p in inlined] + [written["report.png"]]
    assert images[0].startswith(b"\x89PNG")
    written["report.html"] = b"".join([html, *(p.split(b'"', 1)[-1] for p in inlined)])
    written["report.png"] = b"".join(_said_in_png(p) for p in images)
    raw = _raw(folder)
    names = " ".join(written)
    return [
        (secret, where)
        for secret in secrets
        for where, content in (written | raw if len(secret) >= LONG else written).items()
        if secret.lower().encode() in content.lower() or secret in names
    ]


def planted_edf(path: Path, **options) -> Path:
    tals = [tal(t) + tal(t + 0.5, "Mustermann Hannelore coughs" if t == 3 else "T1") for t in range(8)]
    return write_edf(
        path,
        np.rint(noise(4, 8) / 0.1),
        plus="C",
        tals=tals,
        patient="MCH-0234567 F 02-MAI-1951 Mustermann_Hannelore epilepsy",
        recording="Startdate 17-MAR-2003 MCH-0234567 Technician_Igor Station_7B",
        **options,
    )


def planted_raw():
    mne = pytest.importorskip("mne")
    import datetime

    info = mne.create_info(["Fp1", "Cz", "O1", "O2"], 256.0, "eeg")
    info["description"] = "Mustermann Hannelore, epilepsy"
    info["experimenter"] = "Technician_Igor"
    info["subject_info"] = {
        "his_id": "MCH-0234567",
        "last_name": "Mustermann",
        "first_name": "Hannelore",
        "birthday": datetime.date(1951, 5, 2),
    }
    raw = mne.io.RawArray(noise(4, 8) * 1e-6, info, verbose="error")
    raw.set_meas_date(datetime.datetime(2003, 3, 17, 9, 41, 27, tzinfo=datetime.UTC))
    texts = ["Mustermann Hannelore coughs", "Dr_Frankenstein", "T1", "T1"]
    raw.set_annotations(mne.Annotations([1, 2, 3, 4], [0] * 4, texts, orig_time=raw.info["meas_date"]))
    return raw


def planted_fif(folder: Path) -> Path:
    planted_raw().save(folder / "a_raw.fif", verbose="error")
    return folder / "a_raw.fif"


def planted_eeglab(folder: Path) -> Path:
    from scipy.io import savemat

    x = noise(4, 8)
    places = [{"labels": n, "X": np.nan, "Y": np.nan, "Z": np.nan} for n in ("Fp1", "Cz", "O1", "O2")]
    texts = ("Dr_Frankenstein", "Mustermann Hannelore coughs", "T1")
    event = [{"type": text, "latency": 300.0 * (i + 1)} for i, text in enumerate(texts)]
    eeg = {
        "setname": "Mustermann Hannelore", "filename": "a.set", "filepath": "", "subject": "MCH-0234567",
        "comments": "Technician_Igor 17-MAR-2003 epilepsy", "nbchan": 4, "trials": 1, "pnts": x.shape[1],
        "srate": 256.0, "xmin": 0.0, "xmax": x.shape[1] / 256, "data": x, "chanlocs": places, "event": event,
        "urevent": [], "epoch": [], "history": "Station_7B", "times": np.arange(x.shape[1]) / 256,
        "icawinv": [], "icasphere": [], "icaweights": [], "icachansind": [], "ref": "common",
    }  # fmt: skip
    savemat(folder / "a.set", {"EEG": eeg}, appendmat=False)
    return folder / "a.set"
