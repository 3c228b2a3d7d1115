"""Confusions are counted, and failures ranked by colour and shape, on images whose distances are known."""

import numpy as np
import pytest

from dreamjax.evaluation import image_scores
from dreamjax.evaluation.image_scores import Judge, ScoredTrials
from dreamjax.reports import image_report

RED, DARK_RED, GREEN = (200, 0, 0), (120, 0, 0), (0, 200, 0)


def bar(colour, upright, side=64):
    """A bar in the middle, on black."""
    image = np.zeros((side, side, 3), np.uint8)
    middle = slice(side * 3 // 8, side * 5 // 8)
    image[(slice(None), middle) if upright else (middle, slice(None))] = colour
    return image


CLASSES = [bar(RED, True), bar(DARK_RED, False), bar(GREEN, True)]


def by_image(shown):
    """Knows the three images, whose classes are the 1st, 3rd and 4th of five."""
    found = np.full((len(shown), 5), 0.01)
    for row, image in zip(found, shown, strict=True):
        row[[0, 2, 3][np.argmin([np.abs(image.astype(int) - c).sum() for c in CLASSES])]] = 0.9
    return found


JUDGE = Judge("knows", probabilities=by_image)


@pytest.fixture
def trials():
    true = np.stack([CLASSES[k] for k in (0, 1, 2, 0, 1, 2)])
    return ScoredTrials(true, np.zeros(6, int), np.tile(np.arange(6), 2), np.repeat(np.arange(2), 6))


def test_colours_are_as_far_apart_as_their_values():
    """Wasserstein's distance of two images of one colour is the difference of the colours."""
    plain = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 100, 252)])
    found = image_scores.colour_distances(plain, np.arange(3), 3)
    np.testing.assert_allclose(found[0], [0, 25 / 63, 1])  # of 64 levels, 4 values each
    np.testing.assert_allclose(found, found.T)
    # a quarter of the pixels, of one colour in three: 80 values are 20 levels of 63
    bars = image_scores.colour_distances(np.stack(CLASSES), np.arange(3), 3)
    assert bars[0, 1] == pytest.approx(0.25 * 20 / 63 / 3)
    assert bars[0, 2] == pytest.approx(0.25 * 2 * 50 / 63 / 3)


def test_edges_do_not_depend_on_colour():
    bars = image_scores.shape_distances(np.stack(CLASSES), np.arange(3), 3)
    assert bars[0, 2] == pytest.approx(0, abs=1e-9)
    # the same shape turned: the cells that both have are a quarter of the bars' edges
    assert bars[0, 1] > 0.9
    edges = image_scores.edge_map(bar((255, 255, 255), True))
    rows, columns = np.nonzero(edges)
    assert sorted(set(columns)) == [11, 12, 19, 20]
    np.testing.assert_allclose(edges[rows, columns], 0.5)  # half of a step of 1, by central differences


def test_ranks_leave_out_the_class_itself_and_share_ties():
    ranks = image_scores.ranks(np.array([[0, 2, 1, 3], [2, 0, 2, 2], [1, 2, 0, 0], [3, 2, 0, 0]], float))
    assert ranks[0, 1:].tolist() == [2, 1, 3]
    assert ranks[1, [0, 2, 3]].tolist() == [2, 2, 2]
    assert np.isnan(np.diag(ranks)).all()
    assert np.nanmean(ranks) == 4 / 2  # chance


def test_failures_are_counted_and_ranked(trials):
    """One source draws the first class as the third, which has its shape in the other colour."""
    wrong = np.stack([CLASSES[{0: 2, 1: 1, 2: 2}[k % 3]] for k in trials.image])[:, None]
    both = np.concatenate([trials.true[trials.image][:, None], wrong], axis=1)
    result = image_scores.confusions(JUDGE, trials, {"model": wrong, "both": both, "right": both[:, :1]})
    assert result["classes"] == [0, 2, 3]
    assert result["chance"] == {"rank": 1.5, "nearest": 0.5}
    one, two, right = (result["sources"][name] for name in ("model", "both", "right"))
    assert one["counts"] == [[0, 0, 4], [0, 4, 0], [0, 0, 4]]
    assert two["counts"] == [[4, 0, 4], [0, 8, 0], [0, 0, 8]]
    assert right["counts"] == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
    assert (one["failures"]["n"], one["failures"]["of"], two["failures"]["of"]) == (4, 12, 24)
    for failures in (one["failures"], two["failures"]):
        assert (failures["colour"]["rank"]["estimate"], failures["shape"]["rank"]["estimate"]) == (2, 1)
        assert (failures["colour"]["nearest"]["estimate"], failures["shape"]["nearest"]["estimate"]) == (0, 1)
        assert failures["most"] == [{"shown": 0, "drawn": 3, "times": 4, "colour rank": 2.0, "shape rank": 1.0}]
    # 4 trials of each class, drawn: the second 4 times, the third 8 times. Pairs that differ: of the first class shown,
    # 16 with the second and 32 with the third; of the second, 32 with the third; of the third, 16 with the second.
    # By shape the third is the first's nearest and the other way round; to the second both are equally far (rank 1.5)
    expected = (16 * 2 + 32 * 1 + 32 * 1.5 + 16 * 2) / 96
    assert one["failures"]["shape"]["dealt"] == {
        "rank": pytest.approx(expected),
        "nearest": pytest.approx(32 / 96),
    }
    assert (right["failures"]["n"], right["failures"]["of"], right["failures"]["most"]) == (0, 12, [])
    assert [right["failures"][by][what] for by in ("colour", "shape") for what in ("rank", "nearest")] == [None] * 4
    table = image_report.confusion_table(result, ["model", "right"])
    assert table.header[0] == "wrong among 3 classes"
    assert table.rows[0][:2] == ["model", "4 of 12"]
    assert table.rows[-1][2] == "1.500"


def test_a_class_that_was_not_shown_is_never_drawn(trials):
    sure = Judge("sure", probabilities=lambda x: by_image(x) + np.eye(5)[1] * 9 * (x[0, 0, 0, 0] == 255))
    made = np.full((12, 1, 64, 64, 3), 255, np.uint8)
    result = image_scores.confusions(sure, trials, {"model": made})
    assert np.sum(result["sources"]["model"]["counts"]) == 12


def test_one_class_has_no_confusions(trials):
    alone = Judge("alone", probabilities=lambda x: np.tile([0.9, 0.1], (len(x), 1)))
    assert image_scores.confusions(alone, trials, {}) == {}
    assert image_report.confusion_table({}, []).rows == []
