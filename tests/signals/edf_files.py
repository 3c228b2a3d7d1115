"""EDF and BDF files written byte by byte from the standard (Kemp 1992, 2003), so that they can lie on purpose."""

from pathlib import Path

import numpy as np


def field(value: object, width: int) -> bytes:
    return str(value).encode("latin-1")[:width].ljust(width)


def write_edf(
    path: Path,
    digital: np.ndarray,  # channels x samples
    *,
    sfreq: int = 256,
    record_s: float = 1.0,
    labels: list[str] | None = None,
    gain: float = 0.1,  # µV a digital step
    unit: str = "uV",
    prefilter: str = "HP:0.1Hz LP:100Hz",
    bdf: bool = False,
    plus: str = "",  # "C" or "D"
    tals: list[bytes] | None = None,  # one block of TALs a record
    n_records: int | None = None,
    patient: str = "X X X X",
    recording: str = "Startdate X X X X",
) -> Path:
    per_record = round(sfreq * record_s)
    records = digital.shape[1] // per_record
    names = labels or [f"EEG {n}" for n in ("Fp1", "Fp2", "Cz", "O1", "O2", "T3", "T4", "Pz")[: len(digital)]]
    top = 2**23 - 1 if bdf else 2**15 - 1
    width = 3 if bdf else 2
    tal_samples = 60 if tals is not None else 0
    kinds = [*names, *(["BDF Annotations" if bdf else "EDF Annotations"] if tals is not None else [])]
    n = len(kinds)
    is_tal = [i >= len(names) for i in range(n)]
    reserved = f"{'BDF' if bdf else 'EDF'}+{plus}" if plus else ("24BIT" if bdf else "")
    head = [
        b"\xffBIOSEMI" if bdf else field("0", 8), field(patient, 80), field(recording, 80), field("01.01.85", 8),
        field("00.00.00", 8), field(256 * (n + 1), 8), field(reserved, 44),
        field(records if n_records is None else n_records, 8), field(f"{record_s:g}", 8), field(n, 4),
    ]  # fmt: skip
    columns = [
        [field(k, 16) for k in kinds], [field("", 80)] * n, [field("" if t else unit, 8) for t in is_tal],
        [field(-1 if t else f"{-(top + 1) * gain:.6g}", 8) for t in is_tal],
        [field(1 if t else f"{top * gain:.6g}", 8) for t in is_tal],
        [field(-(top + 1), 8)] * n, [field(top, 8)] * n, [field("" if t else prefilter, 80) for t in is_tal],
        [field(tal_samples if t else per_record, 8) for t in is_tal], [field("", 32)] * n,
    ]  # fmt: skip
    with open(path, "wb") as file:
        file.write(b"".join(head) + b"".join(b"".join(c) for c in columns))
        for r in range(records):
            block = digital[:, r * per_record : (r + 1) * per_record].astype("<i4")
            if bdf:
                file.write(np.ascontiguousarray(block).view(np.uint8).reshape(*block.shape, 4)[..., :3].tobytes())
            else:
                file.write(block.astype("<i2").tobytes())
            if tals is not None:
                file.write(tals[r].ljust(tal_samples * width, b"\x00"))
    return path


def tal(onset: float, text: str = "", duration: float | None = None) -> bytes:
    """One time-stamped annotation list; without text, the time-keeping one that a record starts with."""
    length = f"\x15{duration:g}" if duration is not None else ""
    return f"{onset:+g}{length}\x14{text}\x14\x00".encode()
