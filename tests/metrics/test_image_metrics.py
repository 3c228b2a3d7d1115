"""Metrics of images, each from its definition: enumeration, closed forms, other implementations."""

import itertools

import numpy as np
import pytest
from scipy import linalg

from dreamjax.errors import UserError
from dreamjax.metrics import classification, fid, image_similarity, nway, retrieval


# ---------------------------------------------------------------------------------------------------- N-way accuracy
@pytest.mark.parametrize(("ways", "top"), [(2, 1), (4, 1), (4, 2), (6, 3), (7, 1)])
def test_n_way_accuracy_is_the_share_of_all_draws(ways, top):
    """Every set of N - 1 other classes of 7 is enumerated."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(7), size=5)
    target = rng.integers(7, size=5)
    for row, c, found in zip(p, target, nway.n_way(p, target, ways, top), strict=True):
        others = [k for k in range(7) if k != c]
        draws = list(itertools.combinations(others, ways - 1))
        expected = np.mean([sum(row[k] > row[c] for k in drawn) < top for drawn in draws])
        assert found == pytest.approx(expected, abs=1e-12)


def test_uninformative_classifier_is_at_chance():
    """Equal probabilities are broken evenly; random ones average to K / N."""
    assert nway.n_way(np.full((3, 40), 1 / 40), np.arange(3), 10, 3) == pytest.approx(0.3)
    p = np.random.default_rng(0).dirichlet(np.ones(1000), size=4000)
    found = nway.n_way(p, np.arange(4000) % 1000, 50, 1)
    assert abs(found.mean() - 0.02) < 4 * found.std() / 4000**0.5
    with pytest.raises(UserError, match="needs 1 ≤ K < N ≤ classes, and the classifier has 1000"):
        nway.n_way(p, np.zeros(4000, int), 1001, 1)


def test_the_right_and_the_wrong_class():
    p = np.eye(5)[[0, 1]] * 0.9 + 0.02
    assert nway.n_way(p, np.array([0, 2]), 5, 1).tolist() == [1.0, pytest.approx(0.0)]
    counts = classification.confusion([1, 1, 0], [0, 1, 1], 2)
    assert counts.tolist() == [[0, 1], [1, 1]]


# -------------------------------------------------------------------------------------------- two-way identification
def test_two_way_identification_counts_what_is_beaten():
    rng = np.random.default_rng(0)
    made, true = rng.normal(size=(6, 30)), rng.normal(size=(4, 30))
    own = np.array([0, 1, 2, 3, 0, 1])
    r = np.corrcoef(made, true)[:6, 6:]
    np.testing.assert_allclose(retrieval.similarities(made, true), r, atol=1e-12)
    expected = [np.mean([r[i, own[i]] > r[i, j] for j in range(4) if j != own[i]]) for i in range(6)]
    np.testing.assert_allclose(retrieval.two_way(r, own), expected)


def test_correlations_of_pieces_and_of_float32(monkeypatch):
    """Rows at a time, and of bytes: NumPy's own to rounding. Means far above the deviation cost no digits."""
    rng = np.random.default_rng(0)
    made, true = rng.integers(0, 256, (5, 700), np.uint8), rng.integers(0, 256, (6, 700), np.uint8)
    monkeypatch.setattr(retrieval, "HELD", 4 * 700 * 2)
    expected = np.corrcoef(made.astype(float), true.astype(float))[:5, 5:]
    np.testing.assert_allclose(retrieval.similarities(made, true), expected, atol=1e-6)
    np.testing.assert_allclose(retrieval.paired(made, true[:5]), np.diag(expected), atol=1e-6)
    far = (1000 + rng.normal(size=(4, 500))).astype(np.float32)
    expected = np.corrcoef(far.astype(float))
    np.testing.assert_allclose(retrieval.similarities(far, far), expected, atol=1e-5)
    a, b = rng.normal(size=(3, 9)), rng.normal(size=(3, 9))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(retrieval.paired(a, b, centred=False), cosines)
    assert retrieval.paired(np.ones((1, 4)), np.ones((1, 4))).tolist() == [0]


def test_class_alone_scores_half_within_class():
    """Made images that are their class's mean: all right between classes, chance within."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 20)
    centres = 10 * rng.normal(size=(3, 50))
    true = centres[group] + rng.normal(size=(60, 50))
    similarity = retrieval.similarities(centres[group] + 1e-3 * rng.normal(size=(60, 50)), true)
    assert retrieval.two_way(similarity, np.arange(60)).mean() > 0.75
    within = retrieval.two_way(similarity, np.arange(60), group)
    assert abs(within.mean() - 0.5) < 0.1
    assert retrieval.two_way(np.ones((2, 2)), np.arange(2)).tolist() == [0.5, 0.5]
    assert np.isnan(retrieval.two_way(np.ones((2, 2)), np.arange(2), np.arange(2))).all()


# ------------------------------------------------------------------------------------------------------------- pixels
def test_psnr_and_correlation_are_their_definitions():
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    assert np.isinf(image_similarity.psnr(x, x)).all()
    grey, darker = np.full((1, 8, 8, 3), 0.6), np.full((1, 8, 8, 3), 0.5)
    assert image_similarity.psnr(grey, darker)[0] == pytest.approx(20.0)
    y = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    expected = [np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1] for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(image_similarity.pixel_correlation(x, y), expected, atol=1e-12)
    assert image_similarity.pixel_correlation(grey, x[:1, :8, :8]).tolist() == [0.0]


def test_ssim_is_its_definition():
    """Every window summed up by hand, with the weights written out."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(1, 14, 13, 3))
    y = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1)
    a, b = ((p @ image_similarity.GREY)[0] for p in (x, y))
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    w = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for i in range(4):
        for j in range(3):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq, c = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
            found.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    assert image_similarity.ssim(x, y)[0] == pytest.approx(np.mean(found), abs=1e-10)
    assert image_similarity.ssim(x, x)[0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="11 x 11"):
        image_similarity.ssim(x[:, :8], y[:, :8])


# --------------------------------------------------------------------------------------------------------------- sets
@pytest.mark.parametrize("count", [400, 12])  # more, and fewer, than features
def test_the_frechet_distance_is_that_of_the_moments(count):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(count, 16)), 1 + rng.normal(size=(count + 5, 16)) @ rng.normal(size=(16, 16)) / 4
    c1, c2 = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(c1 @ c2 + 1e-12 * np.eye(16)).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c1 + c2 - 2 * root)
    assert fid.fid(a, b) == pytest.approx(expected, rel=1e-3)
    assert fid.fid(a, a) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_shifted_and_scaled_gaussians():
    """N(0, 1) against N(2, 9) in each of 3 dimensions: 3 (2² + (3 - 1)²)."""
    x = np.random.default_rng(0).normal(size=(200_000, 3))
    assert fid.fid(x, 2 + 3 * x) == pytest.approx(24, rel=0.01)


def test_kid_is_unbiased_and_sees_a_shift():
    """Zero on average for two samples of one distribution, whatever their size."""
    rng = np.random.default_rng(0)
    same = [fid.kid(rng.normal(size=(20, 4)), rng.normal(size=(30, 4))) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20
    x, y = rng.normal(size=(5, 4)), rng.normal(size=(6, 4)) + 1
    k = lambda u, v: (u @ v / 4 + 1) ** 3  # noqa: E731
    expected = np.mean([k(u, v) for u, v in itertools.permutations(x, 2)])
    expected += np.mean([k(u, v) for u, v in itertools.permutations(y, 2)])
    expected -= 2 * np.mean([k(u, v) for u in x for v in y])
    assert fid.kid(x, y) == pytest.approx(expected)


def test_the_interval_of_kid_holds_its_error():
    """Halves of few images spread as independent samples do, and the whole is `kid` itself."""
    rng = np.random.default_rng(0)
    shift = 0.5
    # E k(x, y) with d = 1 dimension, x ~ N(a, 1), y ~ N(b, 1): the third moment of 1 + x y
    samples = [(rng.normal(size=(60, 1)), shift + rng.normal(size=(80, 1))) for _ in range(60)]
    found = np.array([fid.kid_interval(a, b) for a, b in samples])
    np.testing.assert_allclose(found[:, 0], [fid.kid(a, b) for a, b in samples], rtol=1e-9)
    moments = lambda m: (1, m, 1 + m * m, m * (3 + m * m))  # of N(m, 1), 0 to 3  # noqa: E731
    k = lambda a, b: sum(c * p * q for c, p, q in zip((1, 3, 3, 1), moments(a), moments(b), strict=True))  # noqa: E731
    truth = k(0, 0) + k(shift, shift) - 2 * k(0, shift)
    held = np.mean((found[:, 1] <= truth) & (truth <= found[:, 2]))
    assert held > 0.8
    width = (found[:, 2] - found[:, 1]).mean() / (2 * 1.96)
    assert 0.6 < width / found[:, 0].std() < 1.6
    assert np.isnan(fid.kid_interval(samples[0][0][:3], samples[0][1])[1:]).all()


def test_kid_is_summed_a_piece_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(23, 5)), rng.normal(size=(31, 5))
    whole = fid.kid_interval(a, b)
    monkeypatch.setattr(fid, "ROWS", 7)
    np.testing.assert_allclose(fid.kid_interval(a, b), whole, rtol=1e-9)


def test_the_inception_score_lies_between_one_and_the_number_of_classes():
    assert fid.inception_score(np.eye(10)) == pytest.approx(10)
    assert fid.inception_score(np.full((7, 10), 0.1)) == pytest.approx(1)
