"""The page of a comparison: figures, the nearest images by a fixed rule, images from their folder."""

import json
from pathlib import Path

import numpy as np
import pytest

import dreamjax
from dreamjax.cli.main import main
from dreamjax.reports import nearest
from dreamjax.reports.nearest import NearestImages
from dreamjax.storage import image_files
from dreamjax.targets import banks
from dreamjax.targets.banks import BankConfig
from tests import trial_shards


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    shards = trial_shards.write(folder / "data", people=2, strength=2.0)
    systems = ["ridge", "shallow"]
    small = {"seeds": 1, "epochs": 2, "settings": [("shallow.model.width", "32")]}
    dreamjax.compare(systems, shards.path, shards.bank, folder / "work", over_time=systems, **small)
    return folder / "work"


def test_a_page_has_figures_and_nearest_images(work: Path) -> None:
    html = (work / "comparison.html").read_text()
    assert html.count('<img class="plot"') == 2
    for heading in ("Accuracy over time", "Nearest images: ridge", "best trials", "middle trials", "worst trials"):
        assert heading in html
    assert "00012_concept/image_0.jpg" in html


def test_accuracy_over_time_has_intervals_in_every_window(work: Path) -> None:
    timed = json.loads((work / "comparison.json").read_text())["over_time"]
    assert list(timed) == ["ridge", "shallow"]
    for kinds in timed.values():
        assert {kind: len(windows) for kind, windows in kinds.items()} == {"sliding": 13, "growing": 13}
        for one in [*kinds["sliding"], *kinds["growing"]]:
            score = one["score"]
            bounded = score["low"] is not None  # unless all answers are alike
            assert not bounded or 0 <= score["low"] <= score["estimate"] <= score["high"] <= 1
        assert any(one["score"]["low"] is not None for one in kinds["sliding"])


def test_a_run_is_evaluated_with_its_nearest_images(work: Path, tmp_path: Path) -> None:
    run = next(work.glob("jobs/ridge-*/seed-0"))
    table = dreamjax.evaluate(run, nearest=3, out=str(tmp_path / "scores")).as_json()
    listed = table["nearest"]
    assert [len(one["nearest"]) for one in listed] == [3] * 8  # type: ignore[attr-defined]
    assert all(one["nearest"][0] == one["seen"] for one in listed if one["rank"] == 1)  # type: ignore[attr-defined]
    html = (tmp_path / "scores" / "retrieval-test.html").read_text()
    assert "all 8 examples" in html
    assert html.count("<figure") == 8 * 4


def test_intervals_of_repeated_images_are_over_images(tmp_path: Path) -> None:
    shards = trial_shards.write(tmp_path / "data", people=1)
    dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work", protocol="single_trial")
    table = dreamjax.evaluate(next((tmp_path / "work").glob("jobs/ridge-*/seed-0"))).as_json()
    assert table["count"] == 8 * 4
    assert "95 % intervals over 8 targets of one subject in brackets" in table["notes"]  # type: ignore[operator]


@pytest.mark.parametrize(("flag", "words"), [("--checkpoint", []), ("--model", ["--prompt", "a"])])
def test_generating_from_a_retrieval_run_points_to_evaluate(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture, flag: str, words: list[str]
) -> None:
    run = next(work.glob("jobs/ridge-*/seed-0"))
    assert main(["generate", flag, str(run), *words, "--out", str(tmp_path / "images")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "retrieves images and generates none" in error
    assert f"dreamjax evaluate {run}" in error
    assert not (tmp_path / "images").exists()


def test_trials_are_shown_by_rank_and_then_by_similarity() -> None:
    rank = np.repeat(np.arange(1.0, 31), 5)  # 150 trials in blocks of 10
    similarity = np.tile(np.arange(5.0), 30)
    rows = nearest.by_rule(rank, similarity)
    assert rows["best trials"].tolist() == [4, 3, 2, 1]
    assert rank[rows["middle trials"]].tolist() == [15] * 4
    assert rank[rows["worst trials"]].tolist() == [29] * 4


def test_of_a_few_trials_the_rule_shows_each_at_most_once() -> None:
    rows = nearest.by_rule(np.array([3.0, 1.0]), np.zeros(2))
    assert rows["best trials"].tolist() == [1]
    assert rows["worst trials"].tolist() == [0]


def test_images_are_read_from_their_folder(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    image_files.write_png(tmp_path / "cat" / "a.png", np.zeros((8, 8, 3), np.uint8))
    groups = {"best": [NearestImages("person 1", "cat/a.png", 1.0, ["cat/a.png"])]}
    png_of = banks.png_reader(BankConfig(path="vectors.npz", images=str(tmp_path)), ["cat/a.png"])
    assert (png_of("cat/a.png") or b"").startswith(b"\x89PNG")
    assert "data:image/png" in nearest.section("Nearest", groups, png_of).html


def test_without_the_images_their_names_are_shown() -> None:
    groups = {"best": [NearestImages("person 1", "<b>.png", 1.0, ["c.png"])]}
    html = nearest.section(
        "Nearest", groups, banks.png_reader(BankConfig(path="vectors.npz"), nearest.names(groups))
    ).html
    assert "&lt;b&gt;.png" in html
    assert "<img" not in html
