"""Text tables of consumer headsets: Muse (muse-lsl, Mind Monitor), OpenBCI, Emotiv (CSV, ARFF). Values are µV.

A table has one row per sample and is read whole. Its time stamps are used only for the clock and then dropped, as they
contain the date of a person's recording.

Wireless packets arrive in bursts, so stamps step by anything from −27 to +33 ms although the headset samples evenly.
The sample number is even; only a lasting jump of the stamps against it is real: samples that were lost.
"""

import gzip
import re
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.signals.recordings.events import StimulusChannel
from dreamjax.signals.recordings.readers.recording import Contents, Event, Source
from dreamjax.signals.recordings.scrub import error_text

MAX_BYTES = 1 << 30  # a day of a headset at 256 Hz
MAX_PACKING = 100  # bytes of text per byte of an archive; tables of numbers have 3 to 20
MAX_PACKED_BYTES = 1 << 24  # a small table is read however tightly it is packed
MUSE_HZ = 256.0
EMOTIV_HZ = 128.0  # EPOC, EPOC+, Insight
SLOWEST_HZ = 50.0  # below this a table holds averages of the app, not the signal
WINDOW = 64  # samples on either side of a suspected gap; averages the bursts out (packets have about 12 samples)
JUMP_S = 0.020  # s; bursts average to 7 ms at most on the Muse files, a lost packet of 12 samples leaves 47 ms
SURE_S = 0.5  # s; no burst holds data back this long
NOMINAL_TOLERANCE = 0.005  # a measured rate this near to the device's stated rate is the stated rate
WHOLE_HZ = 5e-4  # a measured rate this near to a whole number is that number


def open_muse(source: Source, strict: bool) -> Contents:
    """Open muse-lsl: `timestamps,TP9,AF7,AF8,TP10[,Right AUX][,Marker0…]`; stamps in s, a marker where it is not 0."""
    names, rows, damaged = csv_rows(source)
    signal = [i for i, name in enumerate(names) if i > 0 and not name.lower().startswith("marker")]
    sfreq, spans, notes = clock(source, rows[:, 0], MUSE_HZ)
    return table("muse", names, rows, signal, sfreq, spans, damaged + notes, reference="Fpz")


def open_mind_monitor(source: Source, strict: bool) -> Contents:
    """Open Mind Monitor: `TimeStamp,…,RAW_TP9,RAW_AF7,RAW_AF8,RAW_TP10,AUX_RIGHT,…`; rows without raw: blinks."""
    lines = text_of(source).splitlines()
    names = [name.strip() for name in lines[0].split(",")]
    signal = [i for i, name in enumerate(names) if name.startswith("RAW_")]
    stamps, values = [], []
    body, damaged = fitting(source, lines[1:], len(names))
    for line in body:
        cells = line.split(",")
        if len(cells) > max(signal) and cells[signal[0]].strip():
            try:
                stamps.append(seconds_of(cells[0].strip()))
                values.append([float(cells[i]) for i in signal])
            except ValueError:
                continue
    seconds = np.asarray(stamps) - stamps[0] if stamps else np.empty(0)
    sfreq, spans, notes = clock(source, seconds, MUSE_HZ)
    labels = [names[i].removeprefix("RAW_") for i in signal]
    return table(
        "mind-monitor", labels, np.array(values), range(len(labels)), sfreq, spans, damaged + notes, reference="Fpz"
    )


def seconds_of(text: str) -> float:
    """Return the seconds of a date and time as written, whatever the reading machine's time zone."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def open_openbci(source: Source, strict: bool) -> Contents:
    """Open OpenBCI_GUI raw text: `%` lines with board and rate, names, then rows; gaps by the counter and the time."""
    lines = text_of(source).splitlines()
    header = [line for line in lines[:50] if line.startswith("%")]
    rate = re.search(r"Sample Rate\s*=\s*([\d.]+)", "\n".join(header))
    if not rate or not float(rate.group(1)) > 0:
        raise UserError(f"{source.name}: its header has no sample rate; is it OpenBCI raw data?")
    first = lines[len(header)] if len(lines) > len(header) else ""
    has_names = "Channel" in first
    if has_names:
        names = [name.strip() for name in first.split(",")]
    else:  # the GUI before version 5: index, the channels, then accelerometer and time
        count = re.search(r"Number of channels\s*=\s*(\d+)", "\n".join(header))
        channels = [f"EXG Channel {i}" for i in range(int(count.group(1)) if count else 8)]
        names = ["Sample Index", *channels][: first.count(",") + 1]
    body, damaged = lines[len(header) :], list[str]()
    if has_names:
        body, damaged = fitting(source, body[1:], len(names))
    numeric = [i for i, name in enumerate(names) if re.match(r"Sample Index|EXG|Marker|Timestamp$", name)]
    rows = numbers(source, body, numeric)
    names, sfreq = [names[i] for i in numeric], float(rate.group(1))
    signal = [i for i, name in enumerate(names) if name.startswith("EXG")]
    spans, notes = counter_gaps(rows[:, 0], sfreq, stamps_in(names, rows))
    return table("openbci", names, rows, signal, sfreq, spans, damaged + notes)


def open_emotiv(source: Source, strict: bool) -> Contents:
    """Open Emotiv CSV: `COUNTER, AF3, …, MARKERS…, …`; 128 Hz, gaps by the counter."""
    names, rows, damaged = csv_rows(source)
    lower = [name.lower() for name in names]
    other = re.compile(r"counter|marker.*|tick|contactquality|cq.*|time.*|gyro.*|battery.*|interpolated|raw_cq")
    signal = [i for i, name in enumerate(lower) if not other.match(name)]
    spans, notes = counter_gaps(rows[:, lower.index("counter")], EMOTIV_HZ, stamps_in(names, rows))
    return table("emotiv", names, rows, signal, EMOTIV_HZ, spans, damaged + notes)


def open_arff(source: Source, strict: bool) -> Contents:
    """Open Weka's ARFF with one numeric attribute a channel; a last nominal one becomes events where it changes.

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
        channel = StimulusChannel()
        channel.add(rows[:, column].astype(np.int64) + 1)
        changes = channel.changes([], rests=False)
        edges = [*(s for s, _ in changes), len(rows)]
        for (sample, code), stop in zip(changes, edges[1:], strict=True):
            events.append(Event(sample, (stop - sample) / EMOTIV_HZ, f"{kinds[i][0]}/{code - 1}"))
    labels, notes = [kinds[i][0] for i in numeric], ["no time stamps: 128 Hz, the rate of the EPOC"]
    contents = table("arff", labels, rows, range(len(labels)), EMOTIV_HZ, [(0, len(rows))], notes, reference="P3")
    return replace(contents, events=events)


def table(
    format_: str,
    names: Sequence[str],
    rows: Float[np.ndarray, "time columns"],
    columns: Sequence[int],
    sfreq: float,
    spans: Sequence[tuple[int, int]],
    notes: list[str],
    reference: str | None = None,
) -> Contents:
    """Return the contents of the `columns` of rows in memory (float32: 24 bits, more than any of these devices has).

    There is an event wherever a column of markers changes to a number other than 0.
    """
    signal = np.ascontiguousarray(rows[:, list(columns)].T, np.float32)
    events = []
    for i, name in enumerate(names):
        if name.lower().startswith("marker"):
            channel = StimulusChannel()
            channel.add(np.nan_to_num(rows[:, i]).astype(np.int64))
            events += [Event(sample, 1 / sfreq, str(code)) for sample, code in channel.changes(notes)]
    return Contents(
        format=format_,
        labels=[names[i] for i in columns],
        sfreq=sfreq,
        n_samples=len(rows),
        reader=lambda start, stop, picks: signal[list(picks), start:stop].astype(np.float64),
        reference=reference,
        segments=spans,
        events=sorted(events, key=lambda e: e.sample),
        notes=notes,
    )


def stamps_in(names: Sequence[str], rows: Float[np.ndarray, "time columns"]) -> Float[np.ndarray, "time"] | None:
    """Return the column of time stamps of a table that has a counter too, or None."""
    column = next((i for i, name in enumerate(names) if re.fullmatch(r"time_?stamp", name, re.IGNORECASE)), None)
    return None if column is None else rows[:, column]


def counter_gaps(
    counter: Float[np.ndarray, "time"], sfreq: float, stamps: Float[np.ndarray, "time"] | None = None
) -> tuple[list[tuple[int, int]], list[str]]:
    """Return contiguous spans by the counter and, where there are time stamps, by them; and notes on the gaps."""
    by_counter = [start for start, _ in counter_spans(counter)[1:]]
    by_time = [] if stamps is None else [cut for cut in unseen_gaps(counter, sfreq, stamps) if cut not in by_counter]
    counts = {"in the sample counter": by_counter, "of whole turns of the sample counter, by the time stamps": by_time}
    notes = [f"{counted(len(cuts), 'gap')} {where}" for where, cuts in counts.items() if cuts]
    return list(pairwise([0, *sorted(by_counter + by_time), len(counter)])), notes


def unseen_gaps(counter: Float[np.ndarray, "time"], sfreq: float, stamps: Float[np.ndarray, "time"]) -> list[int]:
    """Return the first samples after a loss of whole turns of the counter, which the counter does not show.

    Packets arrive late but never early, so the earliest of many stamps against the sample number is the clock; what is
    lost moves it for good, by three quarters of a turn or more.
    """
    n = len(counter)
    if n < 3 or not np.isfinite(stamps).all():
        return []
    step = max(float(np.median(np.abs(np.diff(counter)))), 1.0)
    turn = round((counter.max() - counter.min() + step) / step)  # samples
    paces = (stamps[turn:] - stamps[:-turn]) / turn * sfreq if n > 2 * turn else np.diff(stamps) * sfreq
    unit = next((unit for unit in (1.0, 1e3, 1e6) if 0.8 < np.median(paces) / unit < 1.25), None)  # s, ms or µs
    if unit is None:
        return []
    late = (stamps - stamps[0]) / unit - np.arange(n) / sfreq
    cuts = []
    for cut in np.flatnonzero(np.diff(stamps) / unit > 0.5 * turn / sfreq) + 1:
        before, after = late[max(0, cut - 2 * turn) : cut].min(), late[cut : cut + 2 * turn].min()
        if after - before > 0.75 * turn / sfreq:
            cuts.append(int(cut))
    return cuts


def clock(
    source: Source, stamps: Float[np.ndarray, "time"], nominal: float
) -> tuple[float, list[tuple[int, int]], list[str]]:
    """Return `dejitter`'s result. Raise UserError for a table without signal."""
    try:
        sfreq, spans, notes = dejitter(stamps - stamps[0] if len(stamps) else stamps, nominal)
    except ValueError as e:
        raise UserError(f"{source.name}: {e}; record again or repair the first column") from e
    if sfreq < SLOWEST_HZ:
        raise UserError(
            f"{source.name}: its rows are {1 / sfreq:.1f} s apart, so they are averages and not the signal; "
            "export with the recording interval set to constant (all samples)"
        )
    return sfreq, spans, notes


def csv_rows(source: Source) -> tuple[list[str], Float[np.ndarray, "time columns"], list[str]]:
    """Return (names, numbers, notes) of a comma-separated table with a line of names, which may contain [a,b] lists."""
    lines = text_of(source).splitlines()
    bare = re.sub(r"\[[^\]]*\]", "", lines[0]) if lines else ""
    names = [name.strip() for name in bare.split(",")]
    body, notes = fitting(source, lines[1:], len(names))
    return names, numbers(source, body, range(len(names))), notes


def fitting(source: Source, lines: Sequence[str], n_names: int) -> tuple[list[str], list[str]]:
    """Return (rows, notes) without the damaged rows that have more fields than there are names.

    Raise UserError where most rows have: a name is missing, and columns would get the names of others.
    """
    counts = [line.rstrip().rstrip(",").count(",") + 1 for line in lines]
    more = sum(count > n_names for count in counts)
    if more > len(lines) / 2:
        raise UserError(
            f"{source.name}: {counted(more, 'row')} with {max(counts)} fields under {n_names} names, so it is not "
            "known which column is which; name every column in the first line"
        )
    kept = [line for line, count in zip(lines, counts, strict=True) if count <= n_names]
    return kept, [f"{counted(more, 'row')} with more fields than names left out"] if more else []


def numbers(source: Source, lines: Sequence[str], columns: Sequence[int]) -> Float[np.ndarray, "time columns"]:
    """Return the given columns of comma-separated lines. Raise UserError for no rows, or a cell without a number."""
    if not any(line.strip() for line in lines):
        raise UserError(f"{source.name}: a table without rows; remove it from the input")
    try:
        return np.loadtxt(list(lines), delimiter=",", usecols=list(columns), ndmin=2, comments=None)
    except (ValueError, IndexError) as e:
        raise UserError(f"{source.name}: a row is not a row of numbers ({error_text(e)}); repair or remove it") from e


def text_of(source: Source) -> str:
    """Return the text of a file, of a gzipped one, or of one member of a zip archive; at most 1 GiB of it."""
    path, member = Path(source.path), source.member
    if path.suffix.lower() == ".gz":
        try:
            with gzip.open(path) as packed:
                data = packed.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as e:
            raise UserError(
                f"{source.name}: not a complete gzip file ({error_text(e)}); restore it from its source"
            ) from e
        if len(data) > MAX_BYTES:
            raise UserError(f"{source.name}: over {MAX_BYTES >> 20} MiB of text; split it")
        return data.decode("utf-8-sig", "replace")
    with zipfile.ZipFile(path) if member else nullcontext() as archive:
        size = archive.getinfo(member).file_size if archive else path.stat().st_size
        if archive and size > max(MAX_PACKED_BYTES, MAX_PACKING * archive.getinfo(member).compress_size):
            raise UserError(f"{source.name}: {size >> 20} MiB of text packed too tightly for a recording; remove it")
        if size > MAX_BYTES:
            raise UserError(f"{source.name}: {size >> 20} MiB of text; split it")
        return (archive.read(member) if archive else path.read_bytes()).decode("utf-8-sig", "replace")


# ------------------------------------------------------------------------------------------------------------- clock
def dejitter(
    stamps: Float[np.ndarray, "time"], nominal: float | None = None
) -> tuple[float, list[tuple[int, int]], list[str]]:
    """Return (sfreq, contiguous spans in samples, notes) from one time stamp in s per sample.

    The rate is the least-squares slope within spans, or the nominal or whole number that it is near. Spans end where
    the stamps jump for good. Raise ValueError for fewer than two stamps, stamps that do not run forwards, or that are
    not numbers.
    """
    stamps = np.asarray(stamps, float)
    n = len(stamps)
    if n < 2 or not np.isfinite(stamps).all():
        raise ValueError("the time stamps do not run forwards")
    cuts = gaps(stamps)  # also where the clock was set back
    spans = list(pairwise([0, *cuts, n]))
    measured = pooled_rate(stamps, spans)
    known = nominal is not None and abs(measured / nominal - 1) < NOMINAL_TOLERANCE
    whole = round(measured) if abs(measured - round(measured)) < WHOLE_HZ * measured else round(measured, 3)
    sfreq = float(nominal) if known and nominal else float(whole)
    steps = np.diff(stamps) * 1e3
    notes = []
    if np.abs(steps - 1e3 / sfreq).max() > 1e3 / sfreq:
        notes.append(
            f"clock dejittered: stamps step {steps.min():.0f} to {steps.max():.0f} ms at {sfreq:g} Hz "
            f"(measured {measured:.3f} Hz)"
        )
    back = [cut for cut in cuts if stamps[cut] < stamps[cut - 1]]
    if back:
        notes.append(f"the clock was set back {counted(len(back), 'time')}: a new segment begins there")
    if len(cuts) > len(back):
        notes.append(f"{counted(len(cuts) - len(back), 'gap')} in the time stamps")
    return sfreq, spans, notes


def gaps(stamps: Float[np.ndarray, "time"]) -> list[int]:
    """Return the first samples after a lasting jump of the stamps against the sample number."""
    n = len(stamps)
    steps = np.diff(stamps)
    sure = {int(i) + 1 for i in np.flatnonzero(np.abs(steps) > SURE_S)}
    width = min(WINDOW, n // 4)
    if width >= 8:
        stride = min(4 * width, n - 1)
        slope = np.median((stamps[stride:] - stamps[:-stride]) / stride)  # a few gaps do not move a median
        residual = stamps - slope * np.arange(n)
        total = np.concatenate(([0.0], np.cumsum(residual)))
        means = (total[width:] - total[:-width]) / width  # means[i]: residuals i … i + width - 1
        jump = means[width:] - means[:-width]  # at sample i + width: mean after minus mean before
        loud = np.abs(jump) > max(JUMP_S, 2 * slope)
        for (run,) in ndimage.find_objects(ndimage.label(loud)[0]):
            peak = run.start + int(np.argmax(np.abs(jump[run]))) + width
            low, high = max(peak - width // 2, 1), min(peak + width // 2, n - 1)
            sure.add(low + int(np.argmax(np.abs(steps[low - 1 : high]))))
    kept: list[int] = []
    for cut in sorted(sure):  # two that are nearer than a quarter of the width are one gap seen twice: the first stays
        if not kept or cut - kept[-1] > width // 4:
            kept.append(cut)
    return kept


def pooled_rate(stamps: Float[np.ndarray, "time"], spans: list[tuple[int, int]]) -> float:
    """Return the least-squares samples per second: one slope for all spans, each with its own offset."""
    cross = square = 0.0
    for start, stop in spans:
        index = np.arange(stop - start) - (stop - start - 1) / 2
        cross += float(index @ (stamps[start:stop] - stamps[start:stop].mean()))
        square += float(index @ index)
    if cross <= 0:
        raise ValueError("the time stamps do not run forwards")
    return square / cross


def counter_spans(counter: Float[np.ndarray, "time"]) -> list[tuple[int, int]]:
    """Return contiguous spans by a packet counter that wraps: cut where its step is unusual.

    >>> counter_spans(np.array([253, 254, 255, 0, 1, 4, 5.0]))
    [(0, 5), (5, 7)]
    """
    n = len(counter)
    if n < 3:
        return [(0, n)]
    steps = np.diff(counter)
    usual = float(np.median(steps))
    wrap = steps < 0
    top, bottom = counter.max(), counter.min()
    regular = (steps == usual) | (wrap & (counter[:-1] >= top - usual + 1) & (counter[1:] <= bottom + usual - 1))
    cuts = (np.flatnonzero(~regular) + 1).tolist()
    return list(pairwise([0, *cuts, n]))
