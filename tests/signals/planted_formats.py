"""Recordings of every other format with names, dates and remarks in every place that the format has for them.

A writer takes the folder, the stem of the file name and the folder of real recordings, and returns the recording's
path. Formats without a writer are real recordings, copied and patched at the offsets of their specification.
"""

import gzip
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import xdf_files
from edf_files import write_edf
from recorded import noise

WHO = b"MCH-0234567 Mustermann_Hannelore"
REMARK = "Mustermann Hannelore coughs, Technician_Igor, Station_7B, epilepsy, 17-MAR-2003"


def put(data: bytearray, at: int, text: bytes, width: int) -> None:
    data[at : at + width] = text[:width].ljust(width, b" ")


def gdf1(folder: Path, stem: str, real: Path) -> Path:
    """GDF 1.25: patient at 8, recording at 88 (80 bytes each), date at 168."""
    data = bytearray((real / "ssvep-exo" / "record-[2012.07.06-19.02.16].gdf").read_bytes())
    put(data, 8, WHO, 80)
    put(data, 88, b"Technician_Igor Station_7B Frankenstein", 80)
    put(data, 168, b"2003031709412700", 16)
    path = folder / f"{stem}.gdf"
    path.write_bytes(data)
    return path


def gdf2(folder: Path, stem: str, real: Path) -> Path:
    """GDF 2.20 by hand: patient at 8 (66 bytes), recording at 88 (64), hospital's classification at 186."""
    x, names = np.rint(noise(4, 8) / 0.1).astype("<i2"), ("Fp1", "Cz", "O1", "O2")
    head = bytearray(256)
    put(head, 0, b"GDF 2.20", 8)
    put(head, 8, WHO, 66)
    put(head, 88, b"Technician_Igor Station_7B Frankenstein", 64)
    days = 731658 << 32  # 17 March 2003, days since the year 0
    struct.pack_into("<QQHQ", head, 168, days, 712343 << 32, 5, 0)
    put(head, 186, b"Igor_1", 6)
    struct.pack_into("<qIIHH", head, 236, 8, 1, 1, 4, 0)
    columns = [
        *(n.encode().ljust(16) for n in names), *([b"Station_7B Igor".ljust(80)] * 4), *([b"uV".ljust(6)] * 4),
        struct.pack("<4H", *[4275] * 4), struct.pack("<4d", *[-3276.8] * 4), struct.pack("<4d", *[3276.7] * 4),
        struct.pack("<4d", *[-32768] * 4), struct.pack("<4d", *[32767] * 4), *([b"Igor".ljust(68)] * 4),
        struct.pack("<4f", *[100] * 4), struct.pack("<4f", *[0.1] * 4), struct.pack("<4f", *[0] * 4),
        struct.pack("<4I", *[256] * 4), struct.pack("<4I", *[3] * 4), bytes(12 * 4), bytes(20 * 4),
    ]  # fmt: skip
    records = b"".join(x[:, r * 256 : (r + 1) * 256].tobytes() for r in range(8))
    path = folder / f"{stem}.gdf"
    path.write_bytes(bytes(head) + b"".join(columns) + records)
    return path


def neuroscan(folder: Path, stem: str, real: Path) -> Path:
    """SETUP: id 21, oper 41, doctor 61, referral 81, hospital 101, patient 121, med 148, state 188, label 208."""
    data = bytearray((real / "formats/mne-testing-data/CNT/scan41_short.cnt").read_bytes())
    fields = (b"MCH-0234567", b"Technician_Igor", b"Dr_Frankenstein", b"Igor", b"Station_7B", b"Mustermann_Hannelore")
    for i, text in enumerate(fields):
        put(data, 21 + 20 * i, text, 20)
    for at, text in ((148, b"Mustermann"), (168, b"epilepsy"), (188, b"epilepsy"), (208, b"Frankenstein")):
        put(data, at, text, 20)
    put(data, 225, b"17/03/2003", 10)
    path = folder / f"{stem}.cnt"
    path.write_bytes(data)
    return path


def ant(folder: Path, stem: str, real: Path) -> Path:
    """The `info` chunk: SubjectName, MachineMake; texts of equal length, so that no size changes."""
    data = (real / "formats/mne-testing-data/antio/CA_208/test_CA_208.cnt").read_bytes()
    path = folder / f"{stem}.cnt"
    path.write_bytes(data.replace(b"antio test", b"Mustermann").replace(b"\neego\n", b"\nIgor\n"))
    return path


def egi(folder: Path, stem: str, real: Path) -> Path:
    """subject.xml, notes.xml and the texts beside the signal of an MFF folder."""
    path = folder / f"{stem}.mff"
    shutil.copytree(real / "formats/mne-testing-data/EGI/test_egi_pns.mff", path, copy_function=shutil.copyfile)
    path.chmod(0o755)
    xml = '<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>'
    fields = "".join(
        f'<field><name>{name}</name><data dataType="string">{text}</data></field>'
        for name, text in (("localIdentifier", WHO.decode()), ("name", "Hannelore"), ("birth", "1951-05-02"))
    )
    schema = 'xmlns="http://www.egi.com/subject_mff" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    (path / "subject.xml").write_text(f"{xml}<patient {schema}><fields>{fields}</fields></patient>")
    (path / "notes.xml").write_text(f'{xml}<notes xmlns="http://www.egi.com/notes_mff">{REMARK}</notes>')
    events = (path / "Events_Calibration.xml").read_text()
    (path / "Events_Calibration.xml").write_text(events.replace("</eventTrack>", f"<!-- {REMARK} --></eventTrack>"))
    (path / "history.xml").write_text(f"{xml}<historyEntries>{REMARK}</historyEntries>")
    return path


def nihon_kohden(folder: Path, stem: str, real: Path) -> Path:
    """The patient's card (.PNT), the remarks (.LOG, .CMT), the electrodes (.21E) and the device block of the .EEG."""
    for source in (real / "formats/mne-testing-data/NihonKohden").glob("MB0400FU.*"):
        if source.suffix == ".EDF":
            continue
        data = bytearray(source.read_bytes())
        if source.suffix == ".PNT":
            data = data.replace(b"Test_no_cap Asdf", b"Mustermann Igor ").replace(b"2019/01/01", b"1951-05-02")
        if source.suffix == ".LOG":
            data = data.replace(b"-REC START ALLE EEG", b"-Mustermann, Igor  ").replace(b"A1+A2 OFF", b"Hannelore")
        if source.suffix in (".21E", ".CMT"):
            data += REMARK.encode()
        if source.suffix == ".EEG":
            put(data, 0x20, b"Mustermann.PNT", 16)
        (folder / f"{stem}{source.suffix}").write_bytes(data)
    return folder / f"{stem}.EEG"


def eximia(folder: Path, stem: str, real: Path) -> Path:
    """No header at all: only the names of file and folder."""
    path = folder / f"{stem}.nxe"
    path.write_bytes(np.rint(noise(64, 4, 1450) * 10).astype("<i2").T.tobytes())
    return path


def _rows(x: np.ndarray, first: float, sfreq: float) -> list[str]:
    return [f"{first + i / sfreq:.3f}," + ",".join(f"{v:.3f}" for v in column) for i, column in enumerate(x.T)]


def muse(folder: Path, stem: str, real: Path) -> Path:
    """Time stamps since 1970: 17 March 2003, 9:41:27."""
    path = folder / f"{stem}.csv"
    rows = [f"{row},{int(i % 256 == 0)}" for i, row in enumerate(_rows(noise(4, 8), 1047894087.0, 256))]
    path.write_text("\n".join(["timestamps,TP9,AF7,AF8,TP10,Marker0", *rows]))
    return path


def mind_monitor(folder: Path, stem: str, real: Path) -> Path:
    path = folder / f"{stem}.csv"
    names = "TimeStamp,RAW_TP9,RAW_AF7,RAW_AF8,RAW_TP10,Elements"
    rows = [f"2003-03-17 09:41:{27 + i / 256:09.6f},{row.split(',', 1)[1]},{REMARK.split(',')[0] if i == 300 else ''}"
            for i, row in enumerate(_rows(noise(4, 8), 0, 256))]  # fmt: skip
    path.write_text("\n".join([names, *rows]))
    return path


def openbci(folder: Path, stem: str, real: Path) -> Path:
    path = folder / f"{stem}.txt"
    head = ["%OpenBCI Raw EXG Data", "%Number of channels = 4", "%Sample Rate = 250 Hz", f"%Board = {REMARK}"]
    names = "Sample Index, " + ", ".join(f"EXG Channel {i}" for i in range(4)) + ", Timestamp, Timestamp (Formatted)"
    x = noise(4, 8, 250)
    rows = [f"{i % 256},{','.join(f'{v:.3f}' for v in column)},1047894087,2003-03-17 09:41:27"
            for i, column in enumerate(x.T)]  # fmt: skip
    path.write_text("\n".join([*head, names, *rows]))
    return path


def emotiv(folder: Path, stem: str, real: Path) -> Path:
    path = folder / f"{stem}.csv"
    x = noise(5, 10, 128) + 4200
    names = "COUNTER,AF3,T7,Pz,T8,AF4,MARKER_HARDWARE,TIME_STAMP_s"
    rows = [f"{i % 128},{','.join(f'{v:.3f}' for v in column)},{int(i % 128 == 5)},1047894087"
            for i, column in enumerate(x.T)]  # fmt: skip
    path.write_text("\n".join([names, *rows]))
    return path


def uci(folder: Path, stem: str, real: Path) -> Path:
    """The file's name is fixed by the format; remarks stand in its first lines, and where a condition should."""
    for trial in range(3):
        condition = REMARK.split(",")[0] if trial == 2 else "obj"
        lines = [
            "# co2a0000364.rd",
            f"# 120 trials, {REMARK}",
            "# 3.906000 msecs uV",
            f"# S1 {condition} , trial {trial}",
        ]
        for c, name in enumerate(("FP1", "CZ", "O1", "O2")):
            lines.append(f"# {name} chan {c}")
            lines += [f"{trial} {name} {i} {v:.3f}" for i, v in enumerate(noise(1, 1, seed=trial)[0])]
        number = 364 + (trial == 2)
        with gzip.open(folder / f"co2a{number:07d}.rd.{trial:03d}.gz", "wt") as file:
            file.write("\n".join(lines) + "\n")
    return folder / "co2a0000364.rd.000.gz"


def numpy_array(folder: Path, stem: str, real: Path) -> Path:
    """A reference in prose; two more arrays, with a key too many and with no JSON, are left out with the reason."""
    facts = {"sfreq": 256, "ch_names": ["Fp1", "Cz", "O1", "O2"], "reference": f"tied by {REMARK}"}
    for name, more in ((stem, {}), (f"{stem}_2", {"operator": "Technician_Igor"})):
        np.save(folder / f"{name}.npy", noise(4, 8))
        (folder / f"{name}.json").write_text(json.dumps({**facts, **more}))
    np.save(folder / f"{stem}_3.npy", noise(4, 8))
    (folder / f"{stem}_3.json").write_text(f"{{sfreq: 256, {REMARK}}}")
    return folder / f"{stem}.npy"


def xdf(folder: Path, stem: str, real: Path) -> Path:
    """Names of streams and hosts, and a marker in prose."""
    x, stamps = noise(4, 8).T, 1047894087.0 + np.arange(8 * 256) / 256
    names = ("Fp1", "Cz", "O1", "O2")
    signal = xdf_files.header(1, "EEG", "float32", 4, 256, names)  # "Igor 1" is its name
    parts = xdf_files.signal_chunks(1, x, stamps)
    markers = xdf_files.samples(2, [("7",), (REMARK,), ("7",)], list(stamps[[100, 600, 900]]), "string")
    return xdf_files.write_xdf(
        folder / f"{stem}.xdf", signal, *parts[:30], xdf_files.chunk(5, xdf_files.BOUNDARY), *parts[30:],
        *(xdf_files.clock(1, float(t), 1e-4) for t in stamps[::512]),
        xdf_files.header(2, "Markers", "string", 1, 0), markers,
    )  # fmt: skip


def delimited(folder: Path, stem: str, real: Path) -> Path:
    """Dates as stamps and a column of remarks; the first line is a comment."""
    path = folder / f"{stem}.tsv"
    rows = [f"2003-03-17 09:41:{27 + i / 256:09.6f}\t" + "\t".join(f"{v:.3f}" for v in column) +
            f"\t{int(i % 256 == 0)}\t{REMARK}" for i, column in enumerate(noise(4, 8).T)]  # fmt: skip
    names = ["DateTime", "Fp1", "Cz", "O1", "O2", "Marker", "remark"]
    path.write_text("\n".join([f"# {REMARK}", "\t".join(names), *rows]))
    return path


def matlab(folder: Path, stem: str, real: Path) -> Path:
    """Variables with names and remarks next to the signal."""
    from scipy.io import savemat

    savemat(folder / f"{stem}.mat", {"signal": noise(4, 8), "patient": WHO.decode(), "note": REMARK})
    facts = {"sfreq": 256, "ch_names": ["Fp1", "Cz", "O1", "O2"], "reference": f"tied by {REMARK}"}
    (folder / f"{stem}.json").write_text(json.dumps(facts))
    return folder / f"{stem}.mat"


def bids(folder: Path, stem: str, real: Path) -> Path:
    """Every sidecar: only trial types, channel types and numbers may pass. The root is called after the person too."""
    eeg = folder / "sub-Hannelore" / "ses-20030317" / "eeg"
    eeg.mkdir(parents=True)
    who = "sub-Hannelore_ses-20030317_task-Frankenstein"
    description = {"Name": REMARK, "License": "Mustermann-1951", "Authors": ["Igor Frankenstein"], "BIDSVersion": "1.8"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    (folder / "participants.tsv").write_text(f"participant_id\tname\tbirth\nsub-Hannelore\t{REMARK}\t1951-05-02\n")
    (folder / "participants.json").write_text(json.dumps({"name": {"Description": REMARK}}))
    (eeg.parent / "scans.tsv").write_text(f"filename\tacq_time\neeg/{who}_eeg.edf\t2003-03-17T09:41:27\n")
    facts = {"EEGReference": REMARK, "PowerLineFrequency": 50, "InstitutionName": "Station_7B", "TaskName": REMARK,
             "SoftwareFilters": {"Technician_Igor": REMARK}, "DeviceSerialNumber": "MCH-0234567"}  # fmt: skip
    (eeg / f"{who}_eeg.json").write_text(json.dumps(facts))
    rows = "".join(f"{t}\t0.5\t{'face' if t % 2 else 'n/a'}\t{REMARK}\t{REMARK}\n" for t in range(1, 7))
    (eeg / f"{who}_events.tsv").write_text("onset\tduration\ttrial_type\tcomment\tHED\n" + rows)
    (eeg / f"{who}_events.json").write_text(json.dumps({"comment": {"Description": REMARK}}))
    rows = "".join(f"EEG {n}\tEEG\tuV\t{REMARK}\tgood\t{REMARK}\n" for n in ("Fp1", "Fp2", "Cz", "O1"))
    (eeg / f"{who}_channels.tsv").write_text("name\ttype\tunits\tdescription\tstatus\tstatus_description\n" + rows)
    (eeg / "sub-Hannelore_ses-20030317_electrodes.tsv").write_text("name\tx\ty\tz\tmaker\nEEG Cz\t0\t0\t9\tIgor\n")
    system = {
        "EEGCoordinateSystem": "Frankenstein",
        "EEGCoordinateUnits": "cm",
        "EEGCoordinateSystemDescription": REMARK,
    }
    (eeg / "sub-Hannelore_ses-20030317_coordsystem.json").write_text(json.dumps(system))
    return write_edf(eeg / f"{who}_eeg.edf", np.rint(noise(4, 8) / 0.1))


WRITERS = {
    "gdf 1": gdf1, "gdf 2": gdf2, "neuroscan": neuroscan, "ant": ant, "egi": egi, "nihon kohden": nihon_kohden,
    "eximia": eximia, "muse": muse, "mind monitor": mind_monitor, "openbci": openbci, "emotiv": emotiv, "uci": uci,
    "numpy": numpy_array, "xdf": xdf, "delimited": delimited, "matlab": matlab, "bids": bids,
}  # fmt: skip
REAL = ("gdf 1", "neuroscan", "ant", "egi", "nihon kohden")  # need the folder of real recordings
