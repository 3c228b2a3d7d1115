"""How recordings are prepared for a run that was trained elsewhere: as its own were, or not at all."""

import json

import pytest

from dreamjax.errors import UserError
from dreamjax.generation import recording_windows
from dreamjax.runs import provenance
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.preparation import prepare, window_settings
from dreamjax.signals.simulation import simulate
from dreamjax.storage import manifest


def test_settings_are_those_of_the_run_wherever_its_data_lie(tmp_path):
    simulate.simulate(tmp_path / "study", simulate.SimulationSettings(subjects=1, minutes=0.5, channels=8))
    events = window_settings.EventWindows(source="file", tmin=0.0, tmax=0.5)
    settings = window_settings.WindowSettings(low=1.0, high=30.0, samples=128, causal=True, events=events)
    prepare.prepare([tmp_path / "study"], tmp_path / "shards", settings, prepare.PrepareOptions(workers=0, salt="test"))
    data = DataConfig(path=(str(tmp_path / "shards"),), samples=128)
    here = recording_windows.settings_of(data)
    assert (here.causal, here.high, here.events.tmax) == (True, 30.0, 0.5)
    run = tmp_path / "run"
    run.mkdir()
    provenance.claim(run, data.path, started=False)
    assert str(tmp_path / "study") not in (run / "data.json").read_text()
    (tmp_path / "shards").rename(tmp_path / "moved")
    assert recording_windows.settings_of(data, run) == here

    old = json.loads((run / "data.json").read_text())
    del old["datasets"][0]["settings"]
    manifest.write_json(run / "data.json", old)
    with pytest.raises(UserError, match=r"is not known here, as .*shards is not"):
        recording_windows.settings_of(data, run)
