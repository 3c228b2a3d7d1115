"""Annotations → event codes. A code is short and impersonal; free text never becomes one.

Annotations of clinical and home-made recordings hold names, dates and remarks. Kept as codes are: numbers of up to
five digits with at most three letters before them (`T1`, `S 12`, `33024`), and single words of up to 24 characters
that occur at least twice and look neither like a date nor like a word of the patient field. The rest is dropped and
counted. Labels that a person gave on purpose as trial types (BIDS, CSV) do not pass through here.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Int

from dreamjax.signals.recordings.readers.recording import Event

STIM_CODE = re.compile(r"[A-Za-z]{0,3} {0,3}\d{1,5}")
KINDED_CODE = re.compile(r"(Stimulus|Response|Event|Optic|Toggle|Trigger)/([A-Za-z]{0,3} {0,3}\d{1,5})")  # BrainVision
RESPONSE = re.compile(r"(Keyboard|KeyPad) Response (\d{1,3})")  # Neuroscan
TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_+\-#/.]{0,23}")
DATE_LIKE = re.compile(r"\d{6,}|\d{1,4}[-:./]\d{1,2}[-:./]\d{1,4}")
REPEATED = 2
BOUNDARY = re.compile(r"BAD|EDGE|boundary|New Segment", re.IGNORECASE)


def sample_of(onset: float, sfreq: float) -> int:
    """The sample nearest to an onset in seconds; halves go up, so a shift of the onset shifts all events alike."""
    return int(np.floor(onset * sfreq + 0.5 + 1e-6))


def keep_codes(
    annotations: Sequence[tuple[float, float, str]], sfreq: float, forbidden: Collection[str] = ()
) -> tuple[list[Event], int]:
    """(events, how many annotations were dropped) from (onset s, duration s, text); boundaries are neither."""
    texts = [text.strip() for _, _, text in annotations]
    counts = Counter(texts)
    events, dropped = [], 0
    for (onset, duration, _), text in zip(annotations, texts, strict=True):
        if BOUNDARY.search(text):
            continue
        code = code_of(text, counts[text], forbidden)
        if code is None:
            dropped += 1
        else:
            events.append(Event(sample_of(onset, sfreq), float(duration), code))
    return events, dropped


def code_of(text: str, times: int, forbidden: Collection[str] = ()) -> str | None:
    """The code that an annotation occurring `times` times stands for, or None where it is free text."""
    if kinded := KINDED_CODE.fullmatch(text):
        return f"{kinded.group(1)}/{kinded.group(2).replace(' ', '')}"
    if response := RESPONSE.fullmatch(text):
        return "/".join(response.groups())
    if STIM_CODE.fullmatch(text):
        return text.replace(" ", "")
    if times < REPEATED or not TOKEN.fullmatch(text) or DATE_LIKE.search(text):
        return None
    words = {word.lower() for word in re.split(r"[\W_]+", text)}
    return None if words & set(forbidden) else text


def stim_changes(values: Int[np.ndarray, "time"], previous: int = 0) -> tuple[list[tuple[int, int]], int]:
    """([(sample, code), …], last value): where a stimulus channel changes to a code other than 0.

    `previous` is the value before the first sample, so that a channel can be read in pieces.
    """
    values = np.asarray(values)
    if len(values) == 0:
        return [], previous
    before = np.concatenate(([previous], values[:-1]))
    samples = np.flatnonzero((values != before) & (values != 0))
    return [(int(s), int(values[s])) for s in samples], int(values[-1])
