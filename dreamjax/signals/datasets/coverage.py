"""How many of the channels that a model reads were recorded, and how many are interpolated.

A channel of the model is recorded where it is a usable electrode of the window. Where no window has any, every number
that the model reads is invented: nothing is trained, scored or generated from it. Otherwise the share is reported.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.datasets.augment import TargetChannels
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.datasets.record_view import StoredWindow

FEW = 16  # electrodes below which interpolation to a whole-head montage is mostly guessing
LISTED = 6  # channels named in a message

_reported: set[str] = set()  # whose share has been logged, once in a process


@dataclass(frozen=True)
class Coverage:
    """Which of the model's channels are usable electrodes of each window, and the sets of channels that occur."""

    real: Bool[np.ndarray, "n channels"]
    caps: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, target: TargetChannels, stored: Iterable[StoredWindow]) -> Self:
        """Return the coverage of stored windows."""
        rows, wanted = [], [name.encode() for name in target.names]
        caps: dict[tuple[bytes, ...], None] = {}
        for record in stored:
            usable = dict(zip(record.names, np.frombuffer(record.channel_ok, bool), strict=True))
            rows.append([usable.get(name, False) for name in wanted])
            caps[record.names] = None
        real = np.array(rows, bool).reshape(len(rows), len(wanted))
        return cls(real, tuple(tuple(name.decode() for name in names) for names in caps))

    @property
    def advice(self) -> str:
        """Return what to do where the electrodes are not in the montage."""
        if len(self.caps) == 1:
            channels = f"--config.data.montage=own --config.model.channels={len(self.caps[0])}"
            return f"pretrain with {channels}, or name the electrodes as in the 10-20 system"
        return (
            "prepare the recordings of one cap at a time and pretrain on them with --config.data.montage=own, or name "
            "the electrodes as in the 10-20 system"
        )

    @property
    def recorded(self) -> str:
        """Return the channels of the windows in words."""
        if len(self.caps) != 1:
            return f"recorded: {len(self.caps)} different sets of channels"
        (names,) = self.caps
        more = f" … ({len(names)} in all)" if len(names) > LISTED else ""
        return f"recorded: {', '.join(names[:LISTED])}{more}"


def joined(parts: Sequence[Coverage]) -> Coverage:
    """Return the coverage of the windows of several parts."""
    caps = dict.fromkeys(cap for part in parts for cap in part.caps)
    return Coverage(np.concatenate([part.real for part in parts]), tuple(caps))


def refuse_none(config: DataConfig, coverage: Coverage, where: str, *, every: bool = False) -> None:
    """Raise UserError where no window has a recorded channel; with `every`, where one of them has none.

    `where`: the windows in words, for the message.
    """
    count = len(coverage.real)
    silent = int((~coverage.real.any(axis=1)).sum())
    if not silent or (silent < count and not every):
        return
    some = f"{silent} of {count} windows have no" if silent < count else "no window has a"
    raise UserError(
        f"{where}: {some} usable electrode of montage {config.montage} ({coverage.recorded}), so everything that the "
        f"model reads there would be interpolated; {coverage.advice}"
    )


def report_share(config: DataConfig, coverage: Coverage, where: str) -> None:
    """Log the share of the model's channels that are interpolated in these windows, once for each `where`."""
    share = 1 - coverage.real.mean()
    if not share or where in _reported:
        return
    _reported.add(where)
    few = all(len(cap) < FEW for cap in coverage.caps) and config.montage != "own"
    log.warning(
        "%s: %s of the channels that the model reads (montage %s, %d channels) are interpolated; %s%s",
        where,
        "below 1 %" if share < 0.01 else f"{100 * share:.0f} %",
        config.montage,
        coverage.real.shape[1],
        coverage.recorded,
        f"; from fewer than {FEW} electrodes most of it is guessed: {coverage.advice}" if few else "",
    )
