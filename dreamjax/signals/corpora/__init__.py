"""Public corpora: what their files do not say, or say wrongly. One file per corpus, one table of them here."""

from dreamjax.signals.readers.base import Source


def unit_scale_of(source: Source) -> float | None:
    """The factor that a corpus's files need because their headers give a wrong unit; None: as the header says."""
    return None
