"""A table of what was tried, for `docs/reliability.md`: printed at the end of `make test-hostile`."""

import contextlib
import json
from collections import Counter

import pytest

import dreamjax
from dreamjax.signals.preparation.inputs import PrepareOptions
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.systems import masked_presets

SWEEP = """
import json
from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems.masked_presets import preset


def get_config():
    base = preset("tiny")
    base.update(json.loads({base!r}))
    base.train.steps = 3
    varied = [axes.values("mask.ratio", 0.25, 0.75)]
    return sweep_config.config("tiny", base, varied, seeds=(0,), score={{"windows": 4, "baselines": False}})
"""

_table: dict[str, Counter[str]] = {}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Recordings, their dataset, a run of one step, its export, a sweep's config, small; tests do not change them."""
    from dreamjax.signals.simulation.simulate import simulate
    from dreamjax.signals.simulation.subject import SimulationSettings

    root = tmp_path_factory.mktemp("made")
    simulate(root / "recordings", SimulationSettings(subjects=3, minutes=0.3, channels=4, seed=3))
    settings = WindowSettings(sfreq=64.0, samples=128)
    dreamjax.prepare(root / "recordings", root / "shards", settings, PrepareOptions(workers=1, salt="a"))
    config = masked_presets.preset("tiny")
    with config.unlocked():
        config.data.path = (str(root / "shards"),)
        config.data.update({"sfreq": 64.0, "samples": 128, "montage": "own"})
        config.model.update(
            {"channels": 4, "dim": 16, "depth": 1, "heads": 2, "interpolation": "none", "scan_layers": False}
        )
        config.model.update({"decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 1, "patch": 8})
        config.train.update({"steps": 1, "batch_size": 8, "eval_every": 0, "tensorboard": False})
    dreamjax.train(config, root / "run")
    with pytest.MonkeyPatch.context() as patch:  # the export is not run in PyTorch, which takes seconds to import
        patch.setattr("dreamjax.export.driver.comparison", lambda _: contextlib.nullcontext(lambda *_: None))
        dreamjax.load(root / "run").export(root / "export")
    (root / "sweep.py").write_text(SWEEP.format(base=json.dumps(config.to_dict())))
    return root


@pytest.fixture
def tally():
    """`tally(what, result)` counts one try: its result is refused, unchanged or failed."""

    def count(what: str, result: str) -> None:
        _table.setdefault(what, Counter())[result] += 1

    return count


def pytest_terminal_summary(terminalreporter) -> None:
    if _table:
        terminalreporter.section("tries")
        for what, counts in _table.items():
            tries = f"{counts.total()} tries"
            terminalreporter.line(f"{what:40} {tries:>10}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
