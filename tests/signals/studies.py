"""A small study on disk, and what `prepare` made of it."""

from pathlib import Path

import numpy as np
from edf_files import write_edf
from recorded import noise

from dreamjax.signals.datasets import records
from dreamjax.signals.preparation.prepare import PrepareOptions

INLINE = PrepareOptions(workers=0)


def study(folder: Path, subjects: int = 4, recordings: int = 2, seconds: int = 8) -> Path:
    """A small study of plausible EEG: `subjects` people with `recordings` each."""
    folder.mkdir(parents=True, exist_ok=True)
    for s in range(subjects):
        for r in range(recordings):
            digital = np.rint(noise(8, seconds, seed=10 * s + r) / 0.1)
            write_edf(folder / f"sub-{s:02d}_ses-{r}.edf", digital)
    return folder


def hidden(folder: Path) -> list[str]:
    """Left-overs: names that begin with a dot."""
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def all_windows(folder: Path) -> dict[str, list[records.Window]]:
    splits = records.load_dataset(folder)["splits"]
    return {split: list(records.read_windows(folder, split)) for split in splits}
