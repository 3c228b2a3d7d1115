"""Recordings added to a finished dataset: its own are taken out of its shards again, so that only the new ones are new.

Beside the shards lies what converting said of each recording (`parts.jsonl`; nothing in it names anybody). With that,
the part that `convert` would make is there before it is asked for, record for record, and everything after it is as
if all recordings had been given at once: the same order, splits and bytes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from dreamjax.console import log
from dreamjax.signals.datasets import records, shards
from dreamjax.signals.preparation import convert
from dreamjax.storage import atomic

NAME = "parts.jsonl"
OF_THIS_RUN = ("reused", "wall_s", "cpu_s", "peak_bytes")


def keep(folder: Path, summaries: Iterable[Mapping[str, Any]]) -> None:
    """Write what `restore` needs into a dataset folder; `summaries` in the order of the shards' recordings."""
    lines = [json.dumps({k: v for k, v in s.items() if k not in OF_THIS_RUN}) for s in summaries]
    atomic.write_text(folder / NAME, "".join(f"{line}\n" for line in lines))


def restore(dataset: epath.Path, parts: Path) -> int:
    """Parts of the recordings of a finished dataset, as `convert` left them; returns how many.

    0 where the dataset does not have what is needed, or its shards are damaged: everything is converted again.
    """
    described = records.load_dataset(dataset)
    try:
        summaries = [json.loads(line) for line in (dataset / NAME).read_text().splitlines()]
    except (OSError, ValueError):
        return 0
    splits = [entry["split"] for entry in described["inputs"]]
    if len(splits) != len(summaries) or records.verify(dataset):
        log.warning("%s: not as it was written, so all of its recordings are converted again", dataset)
        return 0
    for split in described["splits"]:
        reader, first = records.open_split(dataset, split), 0
        for summary in (s for s, where in zip(summaries, splits, strict=True) if where == split):
            _part([reader[i] for i in range(first, first + summary["windows"])], summary, parts / summary["part"])
            first += summary["windows"]
    return len(summaries)


def _part(encoded: list[bytes], summary: dict[str, Any], part: Path) -> None:
    if (part / convert.SUMMARY).exists():
        return
    with shards.ShardWriter(part / convert.SHARD) as writer:
        for record in encoded:
            writer.write(record)
    if summary["averaged"]:
        sums = {label: np.zeros(1) for label in summary["averaged"]}
        for window in map(records.decode, encoded):
            if window.label in sums:
                sums[window.label] = sums[window.label] + np.asarray(window.signal, np.float64)
        np.savez(part / "averages.npz", *sums.values())
    unknown = dict.fromkeys(("wall_s", "cpu_s", "peak_bytes"), 0)
    atomic.write_text(part / convert.SUMMARY, json.dumps({**summary, **unknown}))


@contextmanager
def grown(dataset: epath.Path, parts: Path) -> Iterator[None]:
    """`restore` before the block, which writes the dataset anew; then a warning where somebody is in another split."""
    before = {entry["sha256"]: entry["split"] for entry in records.load_dataset(dataset)["inputs"]}
    log.info("%s: %d recordings are taken over, the others are added", dataset, restore(dataset, parts))
    yield
    after = {entry["sha256"]: entry["split"] for entry in records.load_dataset(dataset)["inputs"]}
    if moved := sum(after[recording] != split for recording, split in before.items() if recording in after):
        log.warning(
            "%s: %d of its recordings are in another split now, as in every small corpus that grows; scores of before "
            "do not compare",
            dataset,
            moved,
        )
