"""`dreamjax report`: what it says of scores whose truth is known, and what it refuses to say."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from dreamjax import config as configs
from dreamjax.cli.main import main
from dreamjax.metrics.bootstrap import Interval
from dreamjax.sweeps import axes, figures, ranking, runs, sweep_config
from dreamjax.sweeps.run_folder import write_json
from dreamjax.sweeps.study import Study
from dreamjax.systems import masked_presets, registry

PEOPLE = [f"s{i}" for i in range(8)]
TRUTH = {"0.25": 0.3, "0.5": 0.5, "0.75": 0.49, "0.95": -0.2}  # share explained; the last is worse than zero


def sweep(rank="reconstruction", seeds=(0, 1, 2)):
    base = masked_presets.preset("tiny")
    entries = [axes.values("mask.ratio", *map(float, TRUTH))]
    score = {"rank": rank, "labels": ("rest", "task") if rank == "probe" else ()}
    found = sweep_config.config("known", base, entries, seeds=seeds, score=score)
    with found.unlocked():
        base, entries = found.base, found.axes
        del found.base, found.axes
    settings = configs.to_dataclass(sweep_config.SweepSettings, found)
    return sweep_config.Sweep(settings, base, registry.schema_of(base), axes.read(entries, "known.py"), "known.py")


def write(workdir, made, noise=0.02, truth=TRUTH, probe=None, zero=2.0):
    """A sweep's folder whose runs scored as `truth` says, with effects of people and seeds and some noise."""
    rng = np.random.default_rng(0)
    of_people, of_seeds = 0.1 * rng.normal(size=8), 0.01 * rng.normal(size=3)
    found = runs.make(made, axes.grid(made.axes))
    study = Study(made, str(workdir))
    study.claim(found)
    for point in found:
        place = study.folder(point)
        place.begin(point)
        share = truth[point.values["mask.ratio"]] + of_people + of_seeds[point.seed] + noise * rng.normal(size=8)
        if point.values["mask.ratio"] == "0.95":
            share = -np.abs(share)
        one = {
            "subjects": PEOPLE,
            "variance": [2.0] * 8,
            "error": {"model": (2 * (1 - share)).tolist(), "zero": [zero] * 8},
        }
        leg = {"examples": 9, "windows": 4, "reconstruction": {"random 0.5": one}, "own": {"explained": 0.9}}
        if probe is not None:
            leg["probe"] = dict(zip(PEOPLE, probe(point, rng).tolist(), strict=True))
        cost = {"seconds": 10.0, "scoring": 1.0, "programs": 4, "from_cache": 3, "flop": point.cost()}
        write_json(
            place.path / "score.json",
            {"legs": {name: leg | {"step": steps} for name, steps in point.legs.items()}, "cost": cost},
        )
    return str(workdir)


def reported(capsys, workdir):
    assert main(["report", workdir, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_summary_claims_only_what_the_runs_show(tmp_path, capsys):
    """0.25 is worse by 0.2, 0.75 by 0.01 is not told apart, 0.95 is worse than zero and not ranked."""
    leg = reported(capsys, write(tmp_path / "sweep", sweep()))["legs"]["examples"]
    rows = {row["values"]["mask.ratio"]: row for row in leg["ranking"]}
    assert set(rows) == {"0.25", "0.5", "0.75"}
    assert leg["untrained"] == ["mask.ratio=0.95"]
    assert rows["0.25"]["minus_best"]["resolved"]
    assert rows["0.25"]["minus_best"]["says"].startswith("worse than mask.ratio=0.")
    near = next(row for row in leg["ranking"][1:] if row["values"]["mask.ratio"] != "0.25")
    assert not near["minus_best"]["resolved"]
    assert "not resolved; this design could detect ≥" in near["minus_best"]["says"]
    for ratio, row in rows.items():
        assert row["score"]["low"] < TRUTH[ratio] + 0.1
        assert row["score"]["high"] > TRUTH[ratio] - 0.1
    text = " ".join(leg["statements"])
    assert "1 point not better than predicting zero or the mean" in text
    assert "is therefore optimistic" in text


def test_a_constant_that_beats_zero_is_untrained(tmp_path, capsys):
    """Where recordings have an offset, predicting it is better than zero, and explains nothing of their variance."""
    offset = write(tmp_path / "sweep", sweep(), truth={**TRUTH, "0.95": -0.05}, zero=2.4)
    assert reported(capsys, offset)["legs"]["examples"]["untrained"] == ["mask.ratio=0.95"]


def test_a_point_without_the_main_axis_is_in_the_cost_plot_by_its_name():
    score = Interval(0.5, 0.4, 0.6, 8)
    rows = [SimpleNamespace(name=f"size={n}", values={"size": n}, score=score, flop=1e12) for n in ("1", "2")]
    rows.append(SimpleNamespace(name="linear", values={"kind": "linear"}, score=score, flop=2e12))
    assert [(one.names, one.x) for one in figures.by_cost(rows, "size")] == [(["1", "2"], [1, 1]), (["linear"], [2])]
    assert [one.names for one in figures.by_cost(rows, None)] == [["size=1", "size=2", "linear"]]


def test_the_best_point_is_a_config_file_that_loads_as_it_ran(tmp_path, capsys):
    made = sweep()
    found = reported(capsys, write(tmp_path / "sweep", made))
    best = found["legs"]["examples"]["ranking"][0]["values"]
    loaded = configs.load(str(tmp_path / "sweep" / "report" / "best.py"), [], registry.schema_of)
    assert loaded == made.config_of(best, 0)
    [command, *_] = found["commands"].values()
    words = command.split()
    alone = configs.load(words[words.index("--config") + 1], [], registry.schema_of)
    assert alone == made.config_of({"mask.ratio": "0.25"}, 0)


def test_files_of_a_report(tmp_path, capsys):
    workdir = write(tmp_path / "sweep", sweep())
    found = reported(capsys, workdir)
    names = {path.rpartition("/")[2] for path in found["files"]}
    assert names >= {"report.json", "report.html", "runs.csv", "best.py", "score_examples.png", "cost_flops.png"}
    with (tmp_path / "sweep" / "report" / "runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * 3 * 2
    first = next(row for row in rows if (row["mask.ratio"], row["seed"], row["compared"]) == ("0.5", "0", "examples"))
    assert float(first["score"]) == pytest.approx(0.5, abs=0.15)
    page = (tmp_path / "sweep" / "report" / "report.html").read_text()
    assert page.count("Plotly.newPlot") >= 4
    assert "mask.ratio=0.95" in page
    assert main(["report", workdir]) == 0
    told = capsys.readouterr().out
    assert "36 of 48 programs came from the compile cache" in told


def test_summary_reports_a_single_seed(tmp_path, capsys):
    leg = reported(capsys, write(tmp_path / "sweep", sweep(seeds=(0,))))["legs"]["flops"]
    assert any(line.startswith("one seed: the variation between seeds is unknown") for line in leg["statements"])


def test_a_sweep_may_be_ranked_by_its_probe(tmp_path, capsys):
    """The point that reconstructs best is not the one whose features tell most."""

    def probe(point, rng):
        return np.clip({"0.25": 0.8}.get(point.values["mask.ratio"], 0.55) + 0.02 * rng.normal(size=8), 0, 1)

    found = reported(capsys, write(tmp_path / "sweep", sweep("probe"), probe=probe))
    leg = found["legs"]["examples"]
    assert leg["ranking"][0]["values"] == {"mask.ratio": "0.25"}
    assert all(row["minus_best"]["resolved"] for row in leg["ranking"][1:])


def test_a_point_of_which_a_seed_is_missing_is_left_out_and_named(tmp_path, capsys):
    workdir = write(tmp_path / "sweep", sweep())
    [gone] = (tmp_path / "sweep" / "points").glob("ratio=0.5-seed=1-*")
    (gone / "score.json").unlink()
    (gone / "failed.json").write_text(json.dumps({"sentences": ["out of memory"]}))
    found = reported(capsys, workdir)
    assert found["legs"]["examples"]["left_out"] == ["mask.ratio=0.5"]
    assert found["unfinished"] == {gone.name: "out of memory"}


def test_rejects_unfinished_sweep(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no sweep (no sweep.json)" in capsys.readouterr().err
    Study(sweep(), str(tmp_path / "begun")).claim()
    assert main(["report", str(tmp_path / "begun")]) == 2
    assert "no point of this sweep is done yet" in capsys.readouterr().err
    workdir = write(tmp_path / "sweep", sweep())
    for pattern in ("points/*/score.json", "points/*/point.json", "sweep.json", "planned.json"):
        path = next((tmp_path / "sweep").glob(pattern))
        whole = path.read_text()
        for text in ("{", "[]", "{}", ""):
            path.write_text(text)
            assert main(["report", workdir]) == 2, (pattern, text)
            [said] = capsys.readouterr().err.splitlines()
            assert said.startswith(f"dreamjax: {path}")
            advice = "choose another --workdir" if pattern == "sweep.json" else "delete it, and dreamjax sweep makes it"
            assert advice in said
        path.write_text(whole)
    assert main(["report", workdir]) == 0
    path = next((tmp_path / "sweep").glob("points/*/point.json"))
    path.unlink()
    assert main(["report", workdir]) == 2
    assert "has no point.json; dreamjax sweep on the same folder makes it again" in capsys.readouterr().err
    Study(sweep(), workdir).claim(runs.make(sweep(), axes.grid(sweep().axes)))
    assert path.exists()


def test_masks_weigh_the_same_whatever_hides_more():
    """The mean over masks of each one's R², of people who have all of them."""
    leg = {
        "reconstruction": {
            "a": {"subjects": ["x", "y"], "variance": [1.0, 1.0], "error": {"model": [0.5, 0.2]}},
            "b": {"subjects": ["x"], "variance": [100.0], "error": {"model": [10.0]}},
        }
    }
    assert ranking.by_subject(leg, "reconstruction") == {"x": pytest.approx((0.5 + 0.9) / 2)}
