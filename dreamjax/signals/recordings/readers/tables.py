"""Text tables of consumer headsets: Muse (muse-lsl, Mind Monitor), OpenBCI, Emotiv (CSV, ARFF). Values are µV.

A table has one row a sample, so it is read as a whole. Its time stamps are used for the clock and forgotten: they are
dates of a person's recording.
"""

import io
import re
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError
from dreamjax.signals.recordings.event_codes import stim_changes
from dreamjax.signals.recordings.readers.clock import counter_spans, dejitter
from dreamjax.signals.recordings.readers.recording import Contents, Event, Source
from dreamjax.signals.recordings.scrub import error_text, unquoted

MAX_BYTES = 1 << 30  # a day of a headset at 256 Hz
MUSE_HZ = 256.0
EMOTIV_HZ = 128.0  # EPOC, EPOC+, Insight
SLOWEST_HZ = 50.0  # below this a table holds averages of the app, not the signal


def open_muse(source: Source, strict: bool = False) -> Contents:
    """muse-lsl: `timestamps,TP9,AF7,AF8,TP10[,Right AUX][,Marker0…]`; time stamps in s, a marker where it is not 0."""
    names, rows = csv_rows(source)
    signal = [i for i, name in enumerate(names) if i > 0 and not name.lower().startswith("marker")]
    markers = [i for i, name in enumerate(names) if name.lower().startswith("marker")]
    sfreq, spans, notes = clock(source, rows[:, 0], MUSE_HZ)
    events = marker_events(rows, markers, sfreq)
    return table("muse", [names[i] for i in signal], rows[:, signal], sfreq, spans, events, notes, reference="Fpz")


def open_mind_monitor(source: Source, strict: bool = False) -> Contents:
    """Mind Monitor: `TimeStamp,…,RAW_TP9,RAW_AF7,RAW_AF8,RAW_TP10,AUX_RIGHT,…`; rows without raw values are blinks."""
    lines = text_of(source).splitlines()
    names = [name.strip() for name in lines[0].split(",")]
    signal = [i for i, name in enumerate(names) if name.startswith("RAW_")]
    stamps, values = [], []
    for line in lines[1:]:
        cells = line.split(",")
        if len(cells) > max(signal) and cells[signal[0]].strip():
            try:
                stamps.append(datetime.fromisoformat(cells[0].strip()).timestamp())
                values.append([float(cells[i]) for i in signal])
            except ValueError:
                continue
    seconds = np.asarray(stamps) - stamps[0] if stamps else np.empty(0)
    sfreq, spans, notes = clock(source, seconds, MUSE_HZ)
    labels = [names[i].removeprefix("RAW_") for i in signal]
    return table("mind-monitor", labels, np.array(values), sfreq, spans, [], notes, reference="Fpz")


def open_openbci(source: Source, strict: bool = False) -> Contents:
    """OpenBCI_GUI raw text: `%` lines with board and rate, a line of column names, then rows; gaps by the counter."""
    lines = text_of(source).splitlines()
    header = [line for line in lines[:50] if line.startswith("%")]
    rate = re.search(r"Sample Rate\s*=\s*([\d.]+)", "\n".join(header))
    if not rate or not float(rate.group(1)) > 0:
        raise UserError(f"{source.name}: its header has no sample rate; is it OpenBCI raw data?")
    first = lines[len(header)] if len(lines) > len(header) else ""
    has_names = "Channel" in first
    body = lines[len(header) + has_names :]
    width = first.count(",") + 1
    names = [name.strip() for name in first.split(",")] if has_names else _openbci_names(header, width)
    numeric = [i for i, name in enumerate(names) if re.match(r"Sample Index|EXG|Marker", name)]
    rows = numbers(source, body, numeric)
    names = [names[i] for i in numeric]
    sfreq = float(rate.group(1))
    signal = [i for i, name in enumerate(names) if name.startswith("EXG")]
    markers = [i for i, name in enumerate(names) if name.startswith("Marker")]
    spans = counter_spans(rows[:, 0])
    notes = [f"{len(spans) - 1} gaps in the sample counter"] if len(spans) > 1 else []
    events = marker_events(rows, markers, sfreq)
    return table("openbci", [names[i] for i in signal], rows[:, signal], sfreq, spans, events, notes)


def _openbci_names(header: Sequence[str], width: int) -> list[str]:
    """Columns of the GUI before version 5, which wrote no names: index, the channels, then accelerometer and time."""
    match = re.search(r"Number of channels\s*=\s*(\d+)", "\n".join(header))
    count = int(match.group(1)) if match else 8
    channels = [f"EXG Channel {i}" for i in range(count)]
    return ["Sample Index", *channels, *(["other"] * max(0, width - count - 1))][:width]


def open_emotiv(source: Source, strict: bool = False) -> Contents:
    """Emotiv CSV: `COUNTER, AF3, …, MARKERS…, …`; 128 Hz, gaps by the counter."""
    names, rows = csv_rows(source)
    lower = [name.lower() for name in names]
    other = re.compile(r"counter|marker.*|tick|contactquality|cq.*|time.*|gyro.*|battery.*|interpolated|raw_cq")
    signal = [i for i, name in enumerate(lower) if not other.match(name)]
    markers = [i for i, name in enumerate(lower) if name.startswith("marker")]
    spans = counter_spans(rows[:, lower.index("counter")])
    notes = [f"{len(spans) - 1} gaps in the sample counter"] if len(spans) > 1 else []
    events = marker_events(rows, markers, EMOTIV_HZ)
    labels = [names[i] for i in signal]
    return table("emotiv", labels, rows[:, signal], EMOTIV_HZ, spans, events, notes)


def open_arff(source: Source, strict: bool = False) -> Contents:
    """Weka's ARFF with one numeric attribute a channel; a last nominal one becomes events where it changes.

    Only Emotiv channel sets are taken: the format itself has no sampling rate.
    """
    lines = text_of(source).splitlines()
    attributes = [re.match(r"@attribute\s+'?([^\s']+)'?\s+(.+)", line.strip(), re.IGNORECASE) for line in lines]
    kinds = [(m.group(1), m.group(2).strip()) for m in attributes if m]
    start = next((i + 1 for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    numeric = [i for i, (_, kind) in enumerate(kinds) if re.match(r"numeric|real|integer", kind, re.IGNORECASE)]
    nominal = [i for i, (_, kind) in enumerate(kinds) if kind.startswith("{")]
    if start is None or not {"AF3", "F7", "T7"} <= {kinds[i][0] for i in numeric}:
        raise UserError(f"{source.name}: an ARFF file that is not of an Emotiv EPOC; its sampling rate is not known")
    rows = numbers(source, lines[start:], [*numeric, *nominal])
    events = []
    for column, i in enumerate(nominal, start=len(numeric)):
        changes, _ = stim_changes(rows[:, column].astype(np.int64) + 1)
        edges = [*(s for s, _ in changes), len(rows)]
        for (sample, code), stop in zip(changes, edges[1:], strict=True):
            events.append(Event(sample, (stop - sample) / EMOTIV_HZ, f"{kinds[i][0]}/{code - 1}"))
    labels = [kinds[i][0] for i in numeric]
    notes = ["no time stamps: 128 Hz, the rate of the EPOC"]
    values = rows[:, : len(numeric)]
    return table("arff", labels, values, EMOTIV_HZ, [(0, len(rows))], events, notes, reference="P3")


def table(
    format_: str,
    labels: Sequence[str],
    rows: Float[np.ndarray, "time channels"],
    sfreq: float,
    spans: Sequence[tuple[int, int]],
    events: Sequence[Event],
    notes: list[str],
    reference: str | None = None,
) -> Contents:
    """Contents over rows that are already in memory (float32: 24 bits, more than any of these devices has)."""
    signal = np.ascontiguousarray(rows.T, np.float32)

    def read(start: int, stop: int, picks: Sequence[int]) -> Float[np.ndarray, "channels time"]:
        return signal[list(picks), start:stop].astype(np.float64)

    return Contents(format_, list(labels), sfreq, signal.shape[1], read, segments=list(spans), events=list(events),
                    reference=reference, notes=notes)  # fmt: skip


def clock(
    source: Source, stamps: Float[np.ndarray, "time"], nominal: float
) -> tuple[float, list[tuple[int, int]], list[str]]:
    """`dejitter`, with the sentence for a table that holds no signal."""
    try:
        sfreq, spans, notes = dejitter(stamps - stamps[0] if len(stamps) else stamps, nominal)
    except ValueError as e:
        raise UserError(f"{source.name}: {unquoted(str(e))}; record again or repair the first column") from e
    if sfreq < SLOWEST_HZ:
        raise UserError(
            f"{source.name}: its rows are {1 / sfreq:.1f} s apart, so they are averages and not the signal; "
            "export with the recording interval set to constant (all samples)"
        )
    return sfreq, spans, notes


def marker_events(rows: Float[np.ndarray, "time columns"], columns: Sequence[int], sfreq: float) -> list[Event]:
    """An event wherever a marker column changes to a number other than 0."""
    events = []
    for column in columns:
        changes, _ = stim_changes(np.nan_to_num(rows[:, column]).astype(np.int64))
        events += [Event(sample, 1 / sfreq, str(code)) for sample, code in changes]
    return sorted(events, key=lambda e: e.sample)


def csv_rows(source: Source) -> tuple[list[str], Float[np.ndarray, "time columns"]]:
    """(column names, numbers) of a comma-separated table with one line of names, which may itself hold [a,b] lists."""
    lines = text_of(source).splitlines()
    bare = re.sub(r"\[[^\]]*\]", "", lines[0]) if lines else ""
    names = [name.strip() for name in bare.split(",")]
    return names, numbers(source, lines[1:], range(len(names)))


def numbers(source: Source, lines: Sequence[str], columns: Sequence[int]) -> Float[np.ndarray, "time columns"]:
    """The given columns of comma-separated lines.

    Raises:
      UserError: no rows, or a cell that is not a number, with its row.
    """
    if not any(line.strip() for line in lines):
        raise UserError(f"{source.name}: a table without rows; remove it from the input")
    try:
        return np.loadtxt(list(lines), delimiter=",", usecols=list(columns), ndmin=2, comments=None)
    except (ValueError, IndexError) as e:
        raise UserError(f"{source.name}: a row is not a row of numbers ({error_text(e)}); repair or remove it") from e


def text_of(source: Source) -> str:
    """The text of a file, or of one member of a zip archive; never more than 1 GiB of it."""
    if source.member:
        with zipfile.ZipFile(source.path) as archive:
            info = archive.getinfo(source.member)
            if info.file_size > MAX_BYTES:
                raise UserError(f"{source.name}: {info.file_size >> 20} MiB of text; split it")
            with archive.open(info) as file:
                return io.TextIOWrapper(file, encoding="utf-8", errors="replace").read()
    path = Path(source.path)
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{source.name}: {path.stat().st_size >> 20} MiB of text; split it")
    return path.read_text(encoding="utf-8-sig", errors="replace")
