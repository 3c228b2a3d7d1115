"""The quality report of a dataset: one page, as HTML and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamjax.signals.preprocess import Settings


def write(
    folder: Path,
    name: str,
    dataset: dict[str, Any],
    parts: Sequence[tuple[dict[str, Any], Path]],
    settings: Settings,
) -> None:
    """Write report.html and report.png into a dataset folder."""
