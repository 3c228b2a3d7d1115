"""Electrodes: their labels, their positions, and the fixed montages ("templates") that a model is trained on.

Devices label an electrode in many ways: `EEG Fp1-Ref`, `Fc5.`, `FP1`, `T3` (the old name of T7). Many files call every
channel `eeg`, also the ECG, the eyes and the difference of the two ears; the label is then the only evidence.

Positions are metres in MNE's head frame: x to the right ear point, y to the nose, z up. They come from the file where
it has them and from the 10-05 template (MNE's standard_1005, kept in the package) where only the name is known.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError, nearest

OLD_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}  # 10-20 before and after the 10-10 revision
BERLIN = {"FAF": "AFF", "CFC": "FCC", "PCP": "CPP", "OPO": "POO"}  # rows as the Berlin BCI data name them → 10-05
OUTER_ROWS = {"FFC": "FFT", "FCC": "FTT", "CCP": "TTP", "CPP": "TPP"}  # from column 7 on
EARS = ("A1", "A2", "M1", "M2")  # ear lobes and mastoids: references rather than scalp

# BioSemi ActiveTwo caps label sockets, not sites; the order is that of the BioSemi cap layouts.
BIOSEMI16 = "Fp1 Fp2 F4 Fz F3 T7 C3 Cz C4 T8 P4 Pz P3 O1 Oz O2"
BIOSEMI32 = (
    "Fp1 AF3 F7 F3 FC1 FC5 T7 C3 CP1 CP5 P7 P3 Pz PO3 O1 Oz O2 PO4 P4 P8 CP6 CP2 C4 T8 FC6 FC2 F4 F8 AF4 Fp2 Fz Cz"
)
BIOSEMI64 = (
    "Fp1 AF7 AF3 F1 F3 F5 F7 FT7 FC5 FC3 FC1 C1 C3 C5 T7 TP7 CP5 CP3 CP1 P1 P3 P5 P7 P9 PO7 PO3 O1 Iz Oz POz Pz CPz "
    "Fpz Fp2 AF8 AF4 AFz Fz F2 F4 F6 F8 FT8 FC6 FC4 FC2 FCz Cz C2 C4 C6 T8 TP8 CP6 CP4 CP2 P2 P4 P6 P8 P10 PO8 PO4 O2"
)

_FRONT_TO_BACK = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2"  # the scalp sites of the 10-20 system
TEMPLATES: dict[str, tuple[str, ...]] = {
    "1020-19": tuple(_FRONT_TO_BACK.split()),
    "1010-32": tuple(BIOSEMI32.split()),  # the order of the BioSemi caps, as ActiveTwo files have it
    "1010-64": tuple(BIOSEMI64.split()),
}
HEAD_RADII = (0.03, 0.25)  # m; a position nearer or farther than this from the head's centre is not an electrode

_PREFIX = re.compile(r"^(EEG|POL|ECG|EKG|EOG|EMG|SaO2|Resp|MEG)[\s_:-]+(?=\S)", re.IGNORECASE)
_REFERENCES = {
    "": "unknown", "ORG": "unknown", "0V": "unknown",
    **dict.fromkeys(("LE", "A1A2", "A1+A2", "A12"), "linked ears"),
    **dict.fromkeys(("LM", "M1M2", "M1+M2", "M12"), "linked mastoids"),
    **dict.fromkeys(("AR", "AVG", "AV", "AVE", "AVERAGE", "MEAN", "CAR"), "average"),
}  # fmt: skip  # as labels name them after the electrode
_NAMED = "|".join(re.escape(name) for name in _REFERENCES if name)
_SUFFIX = re.compile(
    rf"[\s_:/.-]+\(?((?:{_NAMED}|[A-Za-z]{{1,3}}\d{{1,2}}|[A-Za-z]{{1,3}}z)?[\s_-]?Ref(?:erence)?|{_NAMED}|[AM][12])\)?(?:/2)?$",
    re.IGNORECASE,
)
_TYPES = {  # first match wins
    "stim": r"status|sti ?\d*|stim.*|trig(ger)?\d*|trig .*|marker ?\d*( channel)?|event.*|gatein|photic|din\d+"
    r"|digital.*",
    "eog": r".*eog.*|[hv]eo[lrud]?|l-?oc|r-?oc|eye.*|(vert|horiz)\d*|e[12]-[am][12]",
    "ecg": r".*e[ck]g.*|(cardio|heart).*",
    "emg": r".*emg.*|chin.*|(l|r)?leg[-_ /]?.*|masseter.*",
    "misc": r"exg\d+|bip ?\d+|aux.*|right aux|left aux|dc ?\d+|sao2.*|spo2.*|resp.*|acc.*|gyro.*|temp.*|gsr.*|eda"
    r"|pg[12]|x\d+|e|nd|ibi|bursts|suppr|photo.*|pulse.*|snore.*|airflow|thor.*|abd.*|na\d+|plet.*|erg.*|(re-?)?ref|gnd|nose|h[lr]|v[bt]",
}
_TYPES_RE = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _TYPES.items())
_NUMBERED = re.compile(r"^[A-I]\d{3}$|^(e|eeg|ch|chan|channel|exg channel|eeg channel)?[ _-]?0*\d{1,3}$", re.IGNORECASE)


@cache
def _sites() -> dict[str, tuple[str, tuple[float, ...]]]:
    """Return NAME → name and position in metres of the 343 sites of MNE's standard_1005, from the package's copy."""
    text = resources.files("dreamjax.signals.recordings").joinpath("standard_1005.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith(("#", "name"))]
    return {name.upper(): (name, tuple(map(float, xyz))) for name, *xyz in rows}


def standard_name(label: str) -> str | None:
    """Return the 10-05 name that `label` spells, in standard capitals, T3 to T6 as T7 to P8; None otherwise.

    >>> standard_name("FPZ"), standard_name("FAF5"), standard_name("CFC7"), standard_name("CB1")
    ('Fpz', 'AFF5', 'FTT7', None)
    """
    key = label.upper()
    if key not in _sites() and (berlin := re.fullmatch(r"([A-Z]{3})(\d{1,2}|Z)", key)):
        row, column = BERLIN.get(berlin[1], berlin[1]), berlin[2]
        outer = column.isdigit() and int(column) >= 7
        key = f"{OUTER_ROWS.get(row, row) if outer else row}{column}"
    name, _ = _sites().get(key, (None, ()))
    return OLD_NAMES.get(name, name) if name else None


@cache
def _electrode() -> re.Pattern[str]:
    """Return the pattern of electrode labels: a row of the 10-05 system, or CB, SP, with a number; primes too."""
    rows = {re.split(r"\d|z", name)[0] for name, _ in _sites().values()} | {"CB", "SP"}
    return re.compile(
        rf"({'|'.join(sorted(rows - {'A', 'M'}))})(\d{{1,2}}|z)h?['\u2019\u2032`\"]{{0,2}}", re.IGNORECASE
    )


def normalise_name(label: str) -> tuple[str, str]:
    """Return (name, type) of one label; type is eeg, eog, ecg, emg, stim, misc or ref.

    >>> normalise_name("EEG Fp1-M1Ref"), normalise_name("Fc5."), normalise_name("T3"), normalise_name("EEG A2-A1")
    (('Fp1', 'eeg'), ('FC5', 'eeg'), ('T7', 'eeg'), ('A2-A1', 'ref'))
    >>> normalise_name("C3'"), normalise_name("CB1"), normalise_name("FP1-F7"), normalise_name("EEG HEOG-M1Ref")
    (("C3'", 'eeg'), ('CB1', 'eeg'), ('Fp1-F7', 'eeg'), ('HEOG', 'eog'))
    """
    plain = re.sub(r"\s+", " ", label).strip().rstrip(".").strip()
    prefix = _PREFIX.match(plain)
    body = plain[prefix.end() :] if prefix else plain
    stem = _SUFFIX.sub("", body)
    pair = [standard_name(part.strip()) for part in body.split("-")]
    if len(pair) == 2 and all(part in EARS for part in pair):
        return "-".join(map(str, pair)), "ref"
    for candidate in (body, stem, re.sub(r"^EEG", "", stem, flags=re.IGNORECASE)):
        if name := standard_name(candidate):
            return name, "ref" if name in EARS else "eeg"
    if len(pair) == 2 and all(pair):
        return "-".join(map(str, pair)), "eeg"
    marked = prefix.group(1).lower() if prefix else ""
    if marked in ("ecg", "ekg", "eog", "emg"):
        return body, {"ekg": "ecg"}.get(marked, marked)
    if marked == "eeg" and _NUMBERED.match(body):
        return body, "eeg"
    for text in (plain, body, stem):
        for kind, pattern in _TYPES_RE:
            if pattern.fullmatch(text):
                return stem, kind
    electrode = marked == "eeg" or _NUMBERED.match(plain) or _electrode().fullmatch(stem)
    return (stem or label), "eeg" if electrode else "misc"


def names_other_sensor(label: str) -> bool:
    """Return whether the label names a sensor off the scalp: eyes, heart, muscles, triggers, auxiliary inputs."""
    body = _PREFIX.sub("", label.strip())
    texts = (label.strip(), body, _SUFFIX.sub("", body))
    return any(pattern.fullmatch(text) for text in texts for _, pattern in _TYPES_RE)


def common_reference(names: Sequence[str]) -> str:
    """Return the second electrode of all pairs (`Fp1-Pz`, `Fp2-Pz`) where two or more share one; else ""."""
    pairs = {name for name in names if is_pair(name)}
    seconds = {name.split("-")[1] for name in pairs}
    return seconds.pop() if len(pairs) > 1 and len(seconds) == 1 else ""


def is_pair(name: str) -> bool:
    """Return whether a normalised name is that of a bipolar channel: two electrodes."""
    parts = [standard_name(part) for part in name.split("-")]
    return len(parts) == 2 and all(parts)


def banked_names(labels: Sequence[str]) -> list[str] | None:
    """Return `A1…A32, B1…B32, …` of large caps as A001, …, so that C3 is not taken for the site C3; else None.

    Such labels name sockets of an amplifier. No 10-05 site begins with B, so a bank B identifies them.
    """
    if sum(re.fullmatch(r"B\d{1,2}", label) is not None for label in labels) < 4:
        return None
    sockets = [re.fullmatch(r"([A-I])(\d{1,2})", label) for label in labels]
    return [f"{m[1]}{int(m[2]):03d}" if m else label for m, label in zip(sockets, labels, strict=True)]


def biosemi_names(labels: Sequence[str]) -> list[str] | None:
    """Return the sites of BioSemi's 16-, 32- and 64-channel caps where `labels` are their sockets A1…, B1…; else None.

    There may be other channels (EXG, GSR, Status) too.
    """
    sockets = [label for label in labels if re.fullmatch(r"[A-H]\d{1,2}", label)]
    for cap, banks in ((BIOSEMI16, "A"), (BIOSEMI32, "A"), (BIOSEMI64, "AB")):
        names = cap.split()
        expected = [f"{bank}{i}" for bank in banks for i in range(1, len(names) // len(banks) + 1)]
        if sockets == expected:
            sites = dict(zip(expected, names, strict=True))
            return [sites.get(label, label) for label in labels]
    return None


def reference_of(labels: Sequence[str]) -> str:
    """Return the reference that the labels state: "A1", "linked ears", "average", …, or "unknown"."""
    votes: Counter[str] = Counter()
    scalp = [
        (_PREFIX.sub("", label.strip()), name)
        for label in labels
        for name, kind in [normalise_name(label)]
        if kind == "eeg"
    ]
    shared = common_reference([name for _, name in scalp])
    for label, name in scalp:
        suffix = _SUFFIX.search(label)
        key = re.sub(r"[\s_-]?REF(ERENCE)?$", "", suffix.group(1).upper()) if suffix else ""
        votes[(shared or "bipolar") if is_pair(name) else _REFERENCES.get(key) or standard_name(key) or key] += 1
    return votes.most_common(1)[0][0] if votes else "unknown"


def standard_positions(names: Sequence[str]) -> Float[np.ndarray, "channels 3"]:
    """Return the positions in metres of 10-05 names; NaN where a name is not one."""
    unknown = ("", (np.nan,) * 3)
    return np.array([_sites().get((standard_name(name) or "").upper(), unknown)[1] for name in names], float).reshape(
        -1, 3
    )


def midpoints(names: Sequence[str]) -> Float[np.ndarray, "channels 3"]:
    """Return the points in metres midway between the two electrodes of bipolar channels; NaN for other names."""
    ends = [standard_positions(name.split("-") if is_pair(name) else ["", ""]) for name in names]
    return np.array(ends, float).reshape(-1, 2, 3).mean(axis=1)


def template(name: str) -> tuple[tuple[str, ...], Float[np.ndarray, "channels 3"]]:
    """Return names and positions (m) of a fixed montage. Raise UserError for one that is not in TEMPLATES."""
    if name not in TEMPLATES:
        guess = nearest(name, list(TEMPLATES))
        raise UserError(f"no montage template {name}; did you mean {guess or ', '.join(TEMPLATES)}?")
    return TEMPLATES[name], standard_positions(TEMPLATES[name])


def plausible(xyz: Float[np.ndarray, "channels 3"]) -> bool:
    """Return whether the known positions (m) could be on a head: plausible distances, not all in one plane."""
    known = xyz[np.isfinite(xyz).all(axis=1)]
    if len(known) == 0:
        return False
    radius = np.linalg.norm(known, axis=1)
    if not ((radius > HEAD_RADII[0]) & (radius < HEAD_RADII[1])).all():
        return False
    return len(known) < 8 or bool(np.linalg.svd(known - known.mean(0), compute_uv=False)[2] > 1e-3)
