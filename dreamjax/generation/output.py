"""What folders of generated images have in common: a grid of the first ones, and a line of JSON for each entry."""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from etils import epath

from dreamjax.reports import figures
from dreamjax.storage import atomic


def write_grid(folder: epath.Path, images: Sequence[np.ndarray], labels: Sequence[str]) -> None:
    """Write grid.png."""
    atomic.write_bytes(folder / "grid.png", figures.png(figures.image_grid(images, labels), 150))


def write_lines(path: epath.Path, entries: Iterable[Mapping[str, object]]) -> None:
    """Write a JSON object a line."""
    atomic.write_text(path, "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries))
