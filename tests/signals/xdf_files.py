"""XDF files as LabRecorder writes them: chunks by hand, after the format's specification."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

BOUNDARY = bytes.fromhex("43a546dccbf5410fb30ed5467383cbe4")
KINDS = {"float32": "<f4", "double64": "<f8", "int16": "<i2", "int32": "<i4", "int64": "<i8", "int8": "i1"}
SITES = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")


def chunk(tag: int, content: bytes) -> bytes:
    return struct.pack("<BIH", 4, len(content) + 2, tag) + content


def header(
    number: int,
    kind: str,
    format_: str,
    channels: int,
    rate: float,
    labels: Sequence[str] = (),
    unit: str = "microvolts",
) -> bytes:
    listed = "".join(
        f"<channel><label>{escape(n)}</label><type>EEG</type><unit>{unit}</unit></channel>" for n in labels
    )
    xml = (
        f"<?xml version='1.0'?><info><name>Igor {number}</name><type>{kind}</type><channel_count>{channels}"
        f"</channel_count><nominal_srate>{rate:g}</nominal_srate><channel_format>{format_}</channel_format>"
        f"<desc><channels>{listed}</channels></desc></info>"
    )
    return chunk(2, struct.pack("<I", number) + xml.encode())


def samples(number: int, values: Any, stamps: Sequence[float | None], format_: str = "float32") -> bytes:
    """Samples of one chunk: rows of numbers, or of texts, each with a time stamp or None."""
    body = [struct.pack("<IBI", number, 4, len(values))]
    for row, stamp in zip(values, stamps, strict=True):
        body.append(b"\x00" if stamp is None else b"\x08" + struct.pack("<d", stamp))
        if format_ == "string":
            body += [struct.pack("<BI", 4, len(text.encode())) + text.encode() for text in row]
        else:
            body.append(np.asarray(row, KINDS[format_]).tobytes())
    return chunk(3, b"".join(body))


def clock(number: int, time: float, offset: float) -> bytes:
    return chunk(4, struct.pack("<Idd", number, time, offset))


def signal_chunks(number: int, x_TxC: np.ndarray, stamps: np.ndarray, at_once: int = 32) -> list[bytes]:
    """Chunks of 32 samples, each with its time stamp, as an outlet sends them."""
    cuts = range(0, len(x_TxC), at_once)
    return [samples(number, x_TxC[i : i + at_once], list(stamps[i : i + at_once])) for i in cuts]


def write_xdf(path: Path, *chunks: bytes) -> Path:
    start = chunk(1, b"<?xml version='1.0'?><info><version>1.0</version></info>")
    path.write_bytes(b"XDF:" + start + b"".join(chunks))
    return path


def recorded(path: Path, seconds: float = 8, rate: float = 250.0, **options: Any) -> Path:
    """A recording of six channels with markers on a computer whose clock is 1000 s behind."""
    n = round(seconds * rate)
    x_TxC = np.random.default_rng(0).normal(size=(n, 6)) * 15
    stamps = 500 + np.arange(n) / rate
    words = [("S 1",), ("S 2",), ("S 1",), ("S 2",)]
    onsets = [500 + 1000 + t for t in (1.0, 2.0, 3.0, 4.004)]
    return write_xdf(
        path,
        header(1, "EEG", "float32", 6, options.get("nominal", rate), SITES),
        header(2, "Markers", "string", 1, 0),
        *signal_chunks(1, x_TxC, stamps),
        chunk(5, BOUNDARY),
        *(clock(1, 500 + t, 0.0) for t in range(0, 10, 2)),
        *(clock(2, 1500 + t, -1000.0) for t in range(0, 10, 2)),
        samples(2, words, onsets, "string"),
    )
