"""Pages of generated images: images first, scores of other settings named, random draws and missing intervals named."""

import json
from dataclasses import dataclass

import numpy as np

from dreamjax.evaluation import images, reconstruction_report
from dreamjax.evaluation.score_table import Column, ScoreTable
from dreamjax.generation.from_trials import TrialRequest
from dreamjax.metrics import fid
from dreamjax.reports import image_report, tables
from dreamjax.reports.image_report import TrialImages


@dataclass(frozen=True, kw_only=True)
class ReconstructionPage(reconstruction_report.PageResult):
    reconstruction: list


MADE = {"size": [8, 8], "sampler": "ddim", "steps": 30, "guidance": 7.5, "seed": 0}


def result(people: int = 3, note: str = "") -> dict:
    """The JSON of an evaluation of twelve trials."""
    values = {"model": np.linspace(0, 1, 12), "random training image": np.linspace(0.2, 0.9, 12)}
    clusters = (np.arange(12) % people,)
    table = ScoreTable(
        title="runs/x, step 9",
        run="runs/x",
        system="dreamdiffusion",
        step=9,
        split="test",
        seed=0,
        scores=[Column("two-way within class, pixels", values, 0.5).as_json(clusters)],
        sources=list(values),
        of_sources={},
        details={
            "made": MADE,
            "sets": [fid.SetMetric("KID", "lower", {"model": fid.SetScore(0.1, n=12, m=12, note=note)}).as_json()],
        },
    )
    return table.as_json()


def gallery(scores: dict, **settings) -> str:
    image = np.zeros((8, 8, 3), np.uint8)
    alike = image_report.made_alike(scores, MADE | settings)
    return image_report.page(
        title="Images",
        notes=[],
        trial=lambda number: TrialImages(f"trial {number}", image, [image]),
        count=3,
        seed=0,
        tables=image_report.tables(scores) if alike else (),
        about=image_report.about(scores),
    )


def test_a_gallery_shows_the_images_before_the_scores():
    page = gallery(result())
    assert page.index("<figure") < page.index("The scores") < page.index("<table")
    assert "scores of this checkpoint, with controls: below the images" in page


def test_a_gallery_of_other_settings_has_no_tables_of_theirs():
    page = gallery(result(), steps=4)
    assert "<table" not in page
    assert "made with ddim, 30 steps, guidance 7.5; not of the images above" in page
    assert "two-way within class, pixels: model 0.500" in page
    assert "was not evaluated" not in page
    assert "<table" in gallery(result(), seed=5)  # other noise is not another setting


def test_few_images_are_marked_in_table_and_page():
    marked, note = result(note="too few: below 2,048"), "too few: FID and KID of fewer than 2,048 images"
    assert "(n 12 to 12; too few: below 2,048)" in image_report.text(marked)
    assert note in image_report.text(marked)
    assert note in gallery(marked)
    assert note not in image_report.text(result())


def test_a_score_without_an_interval_is_a_number_alone_and_one_line_says_why():
    text = image_report.text(result(people=1))
    assert "no interval]" not in text
    assert text.count("a number without brackets has no interval") == 1
    assert tables.cell({"estimate": 0.61, "low": None, "high": None}) == "0.610"


def test_several_random_draws_of_a_step_are_reported(tmp_path):
    """Draws of other steps, and of runs from before the seed was kept, do not count."""
    lines = [{"step": 9, "seed": 1}, {"step": 9, "seed": 4}, {"step": 8, "seed": 7}, {"step": 9}]
    (tmp_path / images.READS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    notes = images.draw_notes(str(tmp_path), 9, TrialRequest(seed=0, samples=3), 6, 20)
    assert notes[0] == "6 of 20 trials, drawn at random with seed 0"
    assert notes[1] == "every score is the mean over the 3 images of a trial; none of them was chosen"
    assert notes[2].startswith("this step was scored with 3 random draws (seeds 0, 1, 4): report all of them")
    assert images.draw_notes(str(tmp_path), 7, TrialRequest(seed=0), 20, 20) == []


def test_the_terminal_does_not_repeat_the_table_as_statements():
    row = {"estimate": 0.1, "low": 0.05, "high": 0.2, "says": "the model is better than the conditional mean"}
    share = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    entry = {
        "mask": "random 0.1",
        "r2": {"model": share, "conditional mean": share},
        "correlation": {"model": share, "conditional mean": share},
        "model_minus": {"conditional mean": row},
    }
    repeated = "random 0.1: model minus conditional mean +0.100 [+0.050, +0.200]; the model is better"
    page = ReconstructionPage(
        title="t",
        notes=[],
        statements=[repeated, "only 2 subjects are held out: intervals are wide"],
        run="r",
        level=0.95,
        seed=0,
        captions={},
        reconstruction=[entry],
    )
    lines = page.text().splitlines()
    assert "! only 2 subjects are held out: intervals are wide" in lines
    assert not [line for line in lines if repeated in line]
    assert [line for line in lines if "+0.100 [+0.050, +0.200]" in line]  # the row of the table
    assert page.as_json()["statements"][0] == repeated
