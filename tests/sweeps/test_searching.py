"""Points that follow from scores: TPE finds a peak, poor points stop early, a killed search goes on as it would."""

import numpy as np
import pytest

from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.sweeps import runner, samplers, scoring, summary, sweep_config, tpe
from dreamjax.sweeps.partition import Part
from dreamjax.sweeps.scoring import RunScore
from dreamjax.sweeps.study import Study
from dreamjax.systems import opening
from tests.sweeps.conftest import refused, swept

RANGE = 'axes.between("mask.ratio", 0.1, 0.9)'
SEARCH = ("--config.search=tpe", "--config.compare=examples")
BEST = 0.6


@pytest.fixture
def peaked(monkeypatch):
    """Training and scoring that take no time: R² = steps / (steps + 10) - (ratio - 0.6)²; what was asked of them."""
    asked, at = [], {}

    def train(config, folder):
        asked.append((config.mask.ratio, config.seed, config.train.steps))
        at[folder] = config
        return {"preempted": False, "time": {"seconds": {"step": 1.0}}}

    def measure(folder, score, shared):
        config = at[folder]
        steps = config.train.steps
        error = 1 - steps / (steps + 10) + (config.mask.ratio - BEST) ** 2
        rows = {"subjects": ["a"], "variance": [1.0], "error": {"model": [error], "zero": [1.0]}}
        return RunScore(steps, steps * 8, "val", details={"reconstruction": {"every": rows}})

    monkeypatch.setattr(opening, "train", train)
    monkeypatch.setattr(scoring, "measure", measure)
    return asked


def ratios(asked):
    return list(dict.fromkeys(ratio for ratio, _, _ in asked))


def test_search_approaches_the_peak(config, capsys, tmp_path, peaked):
    """The first ten are uniform in 0.1 to 0.9, which lies 0.2125 from the peak on average; later ones half of that."""
    words = ["--config", config(RANGE), "--workdir", str(tmp_path / "out"), *SEARCH, "--config.trials=30"]
    found = swept(capsys, *words)
    assert (found["points"], found["done"], found["failed"], found["left"]) == (30, 30, 0, 0)
    assert np.abs(np.array(ratios(peaked)[20:]) - BEST).mean() < 0.5 * 0.2125
    ranking = summary.summarise(str(tmp_path / "out")).as_json()["legs"]["examples"]["ranking"]
    assert ranking[0]["values"]["mask.ratio"] == min(ratios(peaked), key=lambda ratio: abs(ratio - BEST))


def test_poor_trials_stop_early(config, capsys, tmp_path, peaked):
    """After a third and a ninth of the steps; seeds of a point stop together, and the report says after how many."""
    words = ["--config", config(RANGE, seeds=(0, 1), steps=90), "--workdir", str(tmp_path / "out"), *SEARCH]
    found = swept(capsys, *words, "--config.trials=12", "--config.halvings=2")
    assert (found["done"], found["failed"]) == (12, 0)
    whole = {(ratio, seed) for ratio, seed, steps in peaked if steps == 90}
    stopped = {(ratio, seed) for ratio, seed, _ in peaked} - whole
    assert found["stopped_early"] == len(stopped) / 2 > 3
    assert {steps for _, _, steps in peaked} == {10, 30, 90}
    assert min(abs(ratio - BEST) for ratio, _ in whole) < min(abs(ratio - BEST) for ratio, _ in stopped)
    told = summary.unfinished(str(tmp_path / "out"))
    assert set(told.values()) <= {"stopped early, after 10 steps", "stopped early, after 30 steps"}
    assert len(told) == len(stopped)


def test_killed_search_resumes_identically(config, capsys, tmp_path, peaked, monkeypatch):
    """Killed while it measured its sixth point: nothing is trained twice, and the same points follow."""
    words = ["--config", config(RANGE), *SEARCH, "--config.trials=14"]
    swept(capsys, *words, "--workdir", str(tmp_path / "whole"))
    undisturbed = list(peaked)
    peaked.clear()
    measure = scoring.measure

    def killed(folder, score, shared):
        if len(peaked) == 6:
            raise KeyboardInterrupt
        return measure(folder, score, shared)

    monkeypatch.setattr(scoring, "measure", killed)
    assert main(["sweep", *words, "--workdir", str(tmp_path / "out")]) == 130
    capsys.readouterr()
    monkeypatch.setattr(scoring, "measure", measure)
    found = swept(capsys, *words, "--workdir", str(tmp_path / "out"))
    assert (found["done"], found["done_before"]) == (14, 5)
    assert peaked == [*undisturbed[:6], *undisturbed[5:]]  # the sixth is asked for again, and its run is there


def test_parts_share_a_journal(config, tmp_path, peaked):
    """Each takes the next point; what one was killed at is taken up by that one, and by nobody else."""
    path = config(RANGE)
    settings = [("search", "tpe"), ("compare", "examples"), ("trials", "6")]
    sweep = sweep_config.load(path, settings)
    (tmp_path / "out").mkdir()
    one, two = (samplers.of(Study(sweep, str(tmp_path / "out"), Part(i, 2))) for i in range(2))
    (first, values), (second, others) = one.next(), two.next()
    assert (first.number, second.number) == (0, 1)
    assert values != others
    assert one.next()[0].number == first.number  # it was not ended
    runner.run(two)
    assert [trial.number for trial in two.trials if trial.state.is_finished()] == [1, 2, 3, 4, 5]
    assert [run.values["mask.ratio"] for run in one.runs()] == list(values.values())
    runner.run(samplers.of(Study(sweep, str(tmp_path / "out"), Part(0, 2))))
    assert two.counts().done == 6


def test_parts_that_ask_at_once_get_different_trials(config, tmp_path, peaked, monkeypatch):
    """A part asks while another one has just made its trial: neither the trial nor its values are shared."""
    sweep = sweep_config.load(config(RANGE), [("search", "tpe"), ("compare", "examples"), ("trials", "6")])
    (tmp_path / "out").mkdir()
    one, two = (samplers.of(Study(sweep, str(tmp_path / "out"), Part(i, 2))) for i in range(2))
    opened, between = tpe.TPESampler.open_trial, []

    def slow(sampler, number):
        if sampler is one and not between:
            between.append(None)
            between.append(two.next())
        return opened(sampler, number)

    monkeypatch.setattr(tpe.TPESampler, "open_trial", slow)
    trial, values = one.next()
    assert trial.number != between[1][0].number
    assert values != between[1][1]


def test_values_are_not_tried_twice(config, capsys, tmp_path, peaked):
    """Of four values a search of six points has four; those that are stopped early fail nobody."""
    axis = 'axes.values("mask.ratio", 0.2, 0.4, 0.6, 0.8)'
    words = ["--config", config(axis, steps=90), "--workdir", str(tmp_path / "out"), *SEARCH]
    found = swept(capsys, *words, "--config.trials=6", "--config.halvings=2")
    assert (found["done"], found["failed"], found["left"]) == (4, 0, 2)
    assert len({(ratio, steps) for ratio, _, steps in peaked}) == len(peaked)


def test_dry_run_of_a_search_counts_trials_to_come(config, capsys, tmp_path, peaked):
    words = ["--config", config(RANGE), "--workdir", str(tmp_path / "out"), *SEARCH, "--config.trials=5"]
    before = swept(capsys, *words, "--dry-run")
    assert (before["points"], before["coming"]) == ([], 5)
    assert not (tmp_path / "out").exists()
    base = swept(capsys, "--config", words[1], *words[2:4], "--config.compare=examples", "--config.search=random",
                 "--config.trials=1", "--dry-run")  # fmt: skip
    assert before["cost"]["flop"] == pytest.approx(5 * base["cost"]["flop"], rel=0.5)
    swept(capsys, *words)
    after = swept(capsys, *words, "--dry-run")
    assert (len(after["points"]), after["coming"], after["done"], after["cost"]["flop"]) == (5, 0, 5, 0)


def test_rejects_invalid_searches(config, capsys, tmp_path, peaked):
    out = ["--workdir", str(tmp_path / "out")]
    path = config(RANGE)
    says = refused(capsys, "--config", path, *out, "--config.search=tpe", "--config.trials=2")
    assert "search tpe takes one comparison: set compare to examples or to flops" in says
    says = refused(capsys, "--config", path, *out, "--config.search=asha", "--config.trials=2")
    assert "search must be one of 'grid', 'list', 'random', 'tpe'" in says
    assert "search tpe takes trials" in refused(capsys, "--config", path, *out, *SEARCH)
    says = refused(capsys, "--config", path, *out, "--config.halvings=2", "--config.search=random", "--config.trials=2")
    assert "with search tpe only" in says
    swept(capsys, "--config", path, *out, *SEARCH, "--config.trials=2")
    other = ["--config", config('axes.between("mask.ratio", 0.2, 0.9)'), *out, *SEARCH, "--config.trials=3"]
    assert "searched with other axes" in refused(capsys, *other)
    more = ["--config", config(RANGE, seeds=(0, 1)), *out, *SEARCH, "--config.trials=3"]
    assert "searched with other seeds" in refused(capsys, *more)
    words = ["--config", config(RANGE), "--workdir", "nowhere://x", *SEARCH, "--config.trials=2"]
    assert "no installed package opens nowhere:// paths" in refused(capsys, *words)
    with pytest.raises(UserError, match="keeps a journal, which gs://bucket/x cannot hold"):
        samplers.check_search(sweep_config.load(path, []), "gs://bucket/x", 1)
    says = refused(capsys, "--config", config('axes.between("data.samples", 128, 256, whole=True)'), *out, *SEARCH,
                   "--config.trials=2")  # fmt: skip
    assert "data.samples" in says


def test_reports_missing_optuna(config, capsys, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    says = refused(capsys, "--config", config(RANGE), "--workdir", str(tmp_path / "o"), *SEARCH, "--config.trials=2")
    assert "search=tpe needs the package optuna: pip install 'dreamjax[sweep]'" in says
    assert not (tmp_path / "o").exists()


def test_reports_damaged_journal(config, capsys, tmp_path, peaked):
    """A line that a killed process had half written is cut off. Without its journal a search begins anew, and trains
    nothing that was scored."""
    words = ["--config", config(RANGE), "--workdir", str(tmp_path / "out"), *SEARCH, "--config.trials=3"]
    swept(capsys, *words)
    trained = len(peaked)
    journal = tmp_path / "out" / tpe.JOURNAL
    journal.write_bytes(journal.read_bytes()[:-30])
    assert swept(capsys, *words)["done"] == 3
    journal.write_bytes(b"no journal\n" + journal.read_bytes())
    assert "is damaged; delete it: the search starts again" in refused(capsys, *words)
    journal.unlink()
    assert swept(capsys, *words)["done"] == 3
    assert len(peaked) == trained
    assert swept(capsys, *words[:-1], "--config.trials=2")["left"] == 0
