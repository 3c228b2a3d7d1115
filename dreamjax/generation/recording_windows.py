"""Cut windows at times in a recording, prepared exactly as those that a run was trained on."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.preparation import quality
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.storage import presence

D = TypeVar("D")


@dataclass(frozen=True)
class EventTimes:
    """Times in a recording: `at` seconds since its first sample, or at its events."""

    at: tuple[float, ...] = ()
    events: str = ""  # "file", or a CSV or TSV; as in `dreamjax prepare --events`
    codes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.at and self.events:
            raise UserError("--at and --events both give the times: leave one out")
        if not self.at and not self.events:
            raise UserError("a recording takes the times that images are generated from: --at SECONDS or --events")


@contextmanager
def prepared(
    paths: Sequence[str], data: DataConfig, times: EventTimes, workdir: epath.PathLike | None = None
) -> Iterator[str]:
    """Yield a dataset folder of the recordings' windows at these times, which is deleted when the block ends.

    `data`: of the run in `workdir`. The settings of its first dataset are used, so that the windows have the same band,
    filter, reference, rate and length as in training. Raise UserError as `prepare` does, and where nothing could be
    prepared.
    """
    from dreamjax.signals.preparation import prepare

    for path in paths:
        if not presence.exists(path):
            raise UserError(f"{path}: no such recording or dataset folder")
    with tempfile.TemporaryDirectory(prefix="dreamjax-") as folder:
        source = times.events or f"{folder}/times.csv"
        if not times.events:
            lines = ["onset,duration,trial_type", *(f"{second},0," for second in times.at)]
            Path(source).write_text("\n".join(lines) + "\n")
        settings = settings_of(data, workdir)
        settings = replace(settings, events=replace(settings.events, source=source, codes=times.codes))
        out = Path(folder) / "windows"
        try:
            prepare.prepare(list(paths), out, settings, prepare.PrepareOptions(workers=1))
        except UserError:
            if times.at:
                _refuse_outside(paths, times.at)
            raise
        yield str(out)


def _refuse_outside(paths: Sequence[str], at: Sequence[float]) -> None:
    """Raise UserError for times outside the one recording; one that cannot be read is left to `prepare`."""
    from dreamjax.signals.preparation import prepare

    recordings = prepare.list_events(list(paths))["recordings"]
    if len(recordings) > 1:
        raise UserError(f"--at takes times of one recording, not of {len(recordings)}; name one, or use --events")
    for one in recordings:
        if "reason" not in one and (late := [second for second in at if second >= one["duration"]]):
            raise UserError(f"{paths[0]}: --at {late[0]:g} is outside the recording of {one['duration']:g} s")


def settings_of(data: DataConfig, workdir: epath.PathLike | None = None) -> WindowSettings:
    """Return the settings with which the run's recordings were prepared, from its dataset, else from its data.json.

    For a run without data they follow from the config. Raise UserError where the dataset is missing and the run is too
    old to have kept its settings.
    """
    stored: dict[str, Any] = {}
    if data.path and records.is_dataset(data.path[0]):
        stored = provenance.settings(records.load_dataset(data.path[0]))
    elif kept := (provenance.read(workdir) if workdir is not None else None):
        stored = kept[0].get("settings", {})
        if not stored:
            raise UserError(
                f"how the run's recordings were prepared is not known here, as {data.path[0]} is not; start from the "
                "folder that this path is meant from, or give a dataset folder that was prepared alike"
            )
    if not stored:
        log.warning("how the run's recordings were prepared is not known here: its rate and length are used alone")
        return WindowSettings(sfreq=data.sfreq, samples=data.samples)
    return _dataclass(WindowSettings, stored | {
        "limits": _dataclass(quality.EegLimits, stored.get("limits", {})),
        "events": _dataclass(EventWindows, stored.get("events", {})),
    })  # fmt: skip


def _dataclass(kind: type[D], values: Mapping[str, Any]) -> D:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})
