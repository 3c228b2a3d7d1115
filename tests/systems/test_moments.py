"""How recordings are prepared for a run that was trained elsewhere: as its own were, or not at all."""

import json

import pytest

from dreamjax.errors import UserError
from dreamjax.signals import origin, prepare, preprocess, simulate
from dreamjax.signals.pipeline import DataConfig
from dreamjax.systems import moments


def test_settings_are_those_of_the_run_wherever_its_data_lie(tmp_path):
    simulate.simulate(tmp_path / "study", simulate.Settings(subjects=1, minutes=0.5, channels=8))
    events = preprocess.EventWindows(source="file", tmin=0.0, tmax=0.5)
    settings = preprocess.Settings(low=1.0, high=30.0, samples=128, causal=True, events=events)
    prepare.prepare([tmp_path / "study"], tmp_path / "shards", settings, prepare.Options(workers=0, salt="test"))
    data = DataConfig(path=(str(tmp_path / "shards"),), samples=128)
    here = moments.settings_of(data)
    assert (here.causal, here.high, here.events.tmax) == (True, 30.0, 0.5)
    run = tmp_path / "run"
    run.mkdir()
    origin.claim(run, data.path, started=False)
    assert str(tmp_path / "study") not in (run / "data.json").read_text()
    (tmp_path / "shards").rename(tmp_path / "moved")
    assert moments.settings_of(data, run) == here

    old = json.loads((run / "data.json").read_text())
    del old["datasets"][0]["settings"]
    (run / "data.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match=r"is not known here, as .*shards is not"):
        moments.settings_of(data, run)
