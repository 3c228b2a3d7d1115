"""Moments of a recording → windows, prepared exactly as those that a run was trained on."""

import csv
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.preparation import quality
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings


@dataclass(frozen=True)
class Moments:
    """When in a recording: `at` seconds since its first sample, or at its events."""

    at: tuple[float, ...] = ()
    events: str = ""  # "file", or a CSV or TSV; as in `dreamjax prepare --events`
    codes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.at and self.events:
            raise UserError("--at and --events both say when: give one of them")
        if not self.at and not self.events:
            raise UserError("a recording wants the moments that images are made of: --at SECONDS or --events")


@contextmanager
def prepared(
    paths: Sequence[str], data: DataConfig, moments: Moments, workdir: epath.PathLike | None = None
) -> Iterator[str]:
    """A dataset folder of the recordings' windows at these moments, which is gone when the block ends.

    `data`: of the run in `workdir`. Its first dataset's settings are used, so that the model sees what it learned on:
    the same band, filter, reference, rate and length. Raises UserError as `prepare` does, and where nothing could be
    prepared.
    """
    from dreamjax.signals.preparation import prepare

    for path in paths:
        if not Path(path).exists():
            raise UserError(f"{path}: no such recording or dataset folder")
    with tempfile.TemporaryDirectory(prefix="dreamjax-") as folder:
        source = moments.events or str(_table(Path(folder) / "moments.csv", moments.at))
        own = settings_of(data, workdir)
        settings = replace(own, events=replace(own.events, source=source, codes=moments.codes))
        out = Path(folder) / "windows"
        try:
            prepare.prepare(list(paths), out, settings, prepare.PrepareOptions(workers=1))
        except UserError:
            if moments.at:
                _refuse_outside(paths, moments.at)
            raise
        yield str(out)


def _refuse_outside(paths: Sequence[str], at: Sequence[float]) -> None:
    """Raises UserError for moments that are not in the one recording; one that cannot be read is left to `prepare`."""
    from dreamjax.signals.preparation import prepare

    told = prepare.list_events(list(paths))["recordings"]
    if len(told) > 1:
        raise UserError(f"--at says moments of one recording, and {len(told)} are given; name one, or use --events")
    for one in told:
        if "reason" not in one and (late := [second for second in at if second >= one["duration"]]):
            raise UserError(f"{paths[0]}: --at {late[0]:g} is outside the recording of {one['duration']:g} s")


def _table(path: Path, at: Sequence[float]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["onset", "duration", "trial_type"])
        writer.writerows([second, 0, ""] for second in at)
    return path


def settings_of(data: DataConfig, workdir: epath.PathLike | None = None) -> WindowSettings:
    """How the run's recordings were prepared, as its dataset says, or the run's own data.json where that is elsewhere.

    Of a run that came without data, what its config says. Raises UserError where a run's dataset is not here, and the
    run is too old to have kept its settings.
    """
    told: dict[str, Any] = {}
    if data.path and records.is_dataset(data.path[0]):
        told = provenance.settings(records.load_dataset(data.path[0]))
    elif kept := (provenance.read(workdir) if workdir is not None else None):
        told = kept[0].get("settings", {})
        if not told:
            raise UserError(
                f"how the run's recordings were prepared is not known here, as {data.path[0]} is not; start from the "
                "folder that this path is meant from, or give a dataset folder that was prepared alike"
            )
    if not told:
        log.warning("how the run's recordings were prepared is not known here: its rate and length are used alone")
        return WindowSettings(sfreq=data.sfreq, samples=data.samples)
    return _dataclass(WindowSettings, told | {
        "limits": _dataclass(quality.EegLimits, told.get("limits", {})),
        "events": _dataclass(EventWindows, told.get("events", {})),
    })  # fmt: skip


def _dataclass(kind: Any, told: dict[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k in known})
