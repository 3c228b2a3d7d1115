"""Remove from reasons what may name a person: paths, raw ids, and the text of other libraries' exceptions.

A reason is one of our own sentences with data of the user: the path of a file, its name, the content of its header.
The user sees all of it on the terminal; the reasons that are stored with the shards keep only the sentence.
"""

import re
from pathlib import Path

from dreamjax.signals.recordings.identity import UNKNOWN
from dreamjax.signals.recordings.readers.recording import Source

FOREIGN = re.compile(r"\((\w+): .*\)", re.DOTALL)  # "(ValueError: its text)": the text may quote the file
WHERE = re.compile(r"^[^:]*/[^:]*: ")  # a sentence begins with the path that it is about
QUOTED = re.compile(r"(?<!\w)[bru]?(['\"]).*?\1(?!\w)", re.DOTALL)
PATH = re.compile(r"(?<!\w)(?:\w+:/)?/[^\s,;]+")
SMALL = (
    "a an and are as at be but by for from has how in is it its no not of off on "
    "one or out per s than that the to two up was with EDF BDF GDF EEG FIF MNE Hz µV ms"
)  # of our own sentences; a name among them names no person there
GONE = "\x00"  # without a space, so that a path stays one word until it goes
FIGURE = re.compile(r"\d{1,3}")  # a count in a sentence


def scrubbed(reason: str, source: Source) -> str:
    """Return a reason without paths, raw ids, names of files and folders of any length, and quoted text."""
    path = Path(source.path)
    reason = FOREIGN.sub(r"(\1)", reason)
    for text in (source.name, source.path, str(path.resolve())):
        reason = reason.replace(text, GONE)
    reason = WHERE.sub("", QUOTED.sub("…", reason))
    names = {path.name, path.stem, source.member, Path(source.member).stem, source.session, source.place}
    names |= set() if source.subject == UNKNOWN else {source.subject}
    for text in sorted(names | set(path.parts[:-1]), key=len, reverse=True):
        if re.search(r"\w", text) and text not in SMALL.split() and not FIGURE.fullmatch(text):
            reason = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", GONE, reason)
    return PATH.sub(GONE, reason).removeprefix(f"{GONE}: ").replace(GONE, "the file")


def error_text(error: BaseException) -> str:
    """Return another library's exception as a sentence without quotes of a file; `scrubbed` keeps only its type."""
    text = " ".join(QUOTED.sub("…", str(error)).split())
    first = re.split(r"(?<=[a-z)\]])\. ", text)[0].rstrip(".;")[:160]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
