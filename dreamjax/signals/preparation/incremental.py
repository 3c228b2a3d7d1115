"""Add recordings to a finished dataset: existing ones are read from its shards, only the new ones are converted.

The summaries of its parts are stored next to its shards (`parts.jsonl`, without personal data). They allow the parts
that `convert` would write to be restored record for record, so that the result has the same order, splits and bytes as
if all recordings had been given at once.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from dreamjax import __version__
from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.datasets import records, shards
from dreamjax.signals.preparation import dataset_folder, parts
from dreamjax.signals.preparation.parts import PartSummary
from dreamjax.storage import atomic, manifest, presence

NAME = "parts.jsonl"
OF_THIS_RUN = ("reused", "wall_s", "cpu_s", "peak_bytes")


def keep(folder: Path, summaries: Iterable[PartSummary]) -> None:
    """Write what `restore` needs into a dataset folder; `summaries` in the order of the shards' recordings."""
    lines = (manifest.sealed({k: v for k, v in s.items() if k not in OF_THIS_RUN}) for s in summaries)
    atomic.write_text(folder / NAME, dataset_folder.json_lines(lines))


def restore(dataset: epath.Path, folder: Path) -> int:
    """Restore the parts of a finished dataset's recordings, as `convert` wrote them; return how many.

    0 where the dataset does not have what is needed, or its shards are damaged: everything is converted again.
    """
    metadata = records.load_dataset(dataset)
    if metadata.get("rules", 1) != parts.RULES or metadata["versions"]["dreamjax"] != __version__:
        log.warning("%s: an earlier version wrote it, so all of its recordings are converted again", dataset)
        return 0
    try:
        lines = (dataset / NAME).read_text().splitlines()
        summaries: list[Any] = [manifest.unsealed(json.loads(line), dataset / NAME) for line in lines]
    except (FileNotFoundError, ValueError, UserError):
        return 0
    splits = [entry["split"] for entry in metadata["inputs"]]
    if len(splits) != len(summaries) or records.verify(dataset):
        log.warning("%s: not as it was written, so all of its recordings are converted again", dataset)
        return 0
    for split in metadata["splits"]:
        reader, first = records.open_split(dataset, split), 0
        for summary in (s for s, where in zip(summaries, splits, strict=True) if where == split):
            _part([reader[i] for i in range(first, first + summary["windows"])], summary, folder / summary["part"])
            first += summary["windows"]
    return len(summaries)


def _part(encoded: list[bytes], summary: PartSummary, part: Path) -> None:
    if presence.exists(part / parts.SUMMARY):
        return
    with shards.ShardWriter(part / parts.SHARD) as writer:
        for record in encoded:
            writer.write(record)
    if summary["averaged"]:
        sums = {label: np.zeros(1) for label in summary["averaged"]}
        for window in map(records.decode, encoded):
            if window.label in sums:
                sums[window.label] = sums[window.label] + np.asarray(window.signal, np.float64)
        np.savez(part / parts.AVERAGES, *sums.values())
    manifest.write_json(part / parts.SUMMARY, {**summary, "wall_s": 0, "cpu_s": 0, "peak_bytes": 0})


@contextmanager
def grown(dataset: epath.Path, folder: Path) -> Iterator[None]:
    """Call `restore` before the block, which rewrites the dataset; then warn where a subject changed split."""
    before = {entry["sha256"]: entry["split"] for entry in records.load_dataset(dataset)["inputs"]}
    log.info("%s: %d recordings are taken over, the others are converted", dataset, restore(dataset, folder))
    yield
    after = {entry["sha256"]: entry["split"] for entry in records.load_dataset(dataset)["inputs"]}
    if moved := sum(after[recording] != split for recording, split in before.items() if recording in after):
        log.warning(
            "%s: %d of its recordings are in another split now, as in every small corpus that grows; scores of before "
            "do not compare",
            dataset,
            moved,
        )
