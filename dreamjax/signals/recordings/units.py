"""Units of voltage as headers spell them: `uV`, `µV`, `mV`, `UV`, `microvolts`, and a µ in a wrong encoding."""

import re

PREFIXES = {"": 1e6, "p": 1e-6, "n": 1e-3, "u": 1.0, "m": 1e3, "c": 1e4, "d": 1e5, "k": 1e9}  # µV
WORDS = {"pico": "p", "nano": "n", "micro": "u", "milli": "m", "centi": "c", "deci": "d", "kilo": "k"}
MICRO = re.compile(
    "\u00c2\u00b5|\u00c2\u03bc|\u00ce\u00bc|\u0083\u00ea|&micro;|&mu;|[\u00b5\u03bc\ufffd]|^mc(?=v)", re.IGNORECASE
)


def microvolts(unit: str) -> float | None:
    """Return how many µV a unit of voltage is; None for a unit of another kind or an unknown one.

    Capitals do not count (`UV`, `MV`: no EEG is in megavolts). A µ may be either of Unicode's two, UTF-8 or Shift-JIS
    read as Latin-1, or the sign for what could not be decoded.

    >>> microvolts("uV"), microvolts("MV"), microvolts("Volts"), microvolts("%")
    (1.0, 1000.0, 1000000.0, None)
    """
    text = MICRO.sub("u", unit.strip(" \t\x00[]()")).lower().replace(" ", "")
    match = re.fullmatch(rf"({'|'.join(WORDS)}|[{''.join(PREFIXES)}])?(?:v|volts?)", text)
    return PREFIXES[WORDS.get(match[1] or "", match[1] or "")] if match else None
