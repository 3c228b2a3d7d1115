"""Masks by closed form: exact counts, spans, independence of row and batch, padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.objectives import masking
from dreamjax.objectives.masking import MaskConfig, draw, keep_count

N = 128


@pytest.fixture(autouse=True, scope="module")
def _quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


BATCH = 2000  # every draw has this many rows, so that a config compiles once
TRACES = []


def indices(start=0):
    low = np.arange(start, start + BATCH, dtype=np.uint32)
    return np.stack([np.zeros_like(low), low], axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _drawn(config, seed, index, valid):
    TRACES.append(config)
    return draw(config, seed, index, valid)


def drawn(config, index=None, valid=None, seed=0):
    valid = np.ones((BATCH, N), bool) if valid is None else valid
    return jax.tree.map(np.asarray, _drawn(config, seed, indices() if index is None else index, valid))


def run_lengths(row):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 32), (0.1, 115), (0.5, 64), (0.9, 12)])
def test_the_number_kept_is_the_references(ratio, kept):
    """int(128 (1 - r)): 32 at 0.75 and 115 at 0.1; 12, and not 13, at 0.9."""
    assert keep_count(N, ratio) == kept
    assert MaskConfig(ratio=ratio).visible_slots(N) == kept


def test_random_masks_hide_exactly_that_many_and_every_patch_equally_often():
    """2,000 draws at 0.75: each patch's count is Binomial(2000, 0.75), 1500 ± 5 σ with σ = 19.4."""
    hidden = drawn(MaskConfig()).hidden
    assert (hidden.sum(1) == 96).all()
    assert np.abs(hidden.sum(0) - 1500).max() < 5 * 19.4


BLOCKS = MaskConfig(ratio=0.5, kind="block", span=16)


def test_blocks_hide_the_same_number_in_contiguous_spans():
    """Spans of 16 at a random offset; all but the cut one and the two at the edges are multiples of 16 long."""
    mask = drawn(BLOCKS)
    assert (mask.hidden.sum(1) == 64).all()
    for row in mask.hidden:
        lengths = run_lengths(row)
        assert len(lengths) <= 7
        inner = [
            n
            for n, first in zip(lengths, np.flatnonzero(np.diff(np.r_[0, row.astype(int)]) == 1), strict=True)
            if first > 0 and first + n < N
        ]
        assert sum(n % 16 != 0 for n in inner) <= 1


def test_the_order_is_a_permutation_with_the_visible_patches_first():
    mask = drawn(BLOCKS)
    assert np.array_equal(np.sort(mask.order, axis=1), np.broadcast_to(np.arange(N), (BATCH, N)))
    in_order = np.take_along_axis(mask.hidden, mask.order, axis=1)
    assert not in_order[:, :64].any()
    assert in_order[:, 64:].all()


def test_a_mask_belongs_to_the_example_not_to_the_row_or_the_batch():
    whole = drawn(BLOCKS).hidden
    np.testing.assert_array_equal(drawn(BLOCKS, indices()[::-1]).hidden[::-1], whole)
    np.testing.assert_array_equal(drawn(BLOCKS, indices(start=700)).hidden[:100], whole[700:800])


def test_seed_and_both_halves_of_the_index_matter():
    index = np.zeros((BATCH, 2), np.uint32)
    index[:4] = [[0, 1], [1, 0], [1, 1], [0, 0]]
    rows = [*drawn(BLOCKS, index).hidden[:4], drawn(BLOCKS, index, seed=1).hidden[0]]
    assert len({row.tobytes() for row in rows}) == len(rows)


def test_a_mixture_draws_its_shares_with_one_compile():
    """Kinds 3:1, ratios 1:1, in 2,000 draws: 500 ± 5 · 19.4 channel masks, and of the rest half keep 96 of 128."""
    config = MaskConfig(ratio=(0.25, 0.75), kind=("random", "channel"), kind_weights=(3.0, 1.0))
    mask = drawn(config)
    drawn(config, indices(start=5000))
    assert TRACES.count(config) == 1
    assert abs(mask.channel.sum() - 500) < 97
    assert (mask.visible[mask.channel] == N).all()
    assert set(mask.visible[~mask.channel]) == {32, 96}
    assert abs((mask.visible[~mask.channel] == 96).mean() - 0.5) < 0.07
    assert config.visible_slots(N) == N
    assert config.mean_visible(N) == 0.75 * 64 + 0.25 * 128


def test_a_range_of_ratios_is_uniform_over_the_counts():
    config = MaskConfig(ratio=(0.25, 0.75), ratio_between=True)
    visible = drawn(config).visible
    assert visible.min() >= 32
    assert visible.max() <= 96
    np.testing.assert_allclose(visible.mean(), 64, atol=5 * 18.8 / np.sqrt(2000))  # sd of U{32 … 96} = 18.76


def test_padding_is_neither_visible_nor_hidden():
    valid = np.ones((BATCH, N), bool)
    valid[:4] = np.arange(N) < np.array([[128], [100], [4], [0]])
    mask = drawn(MaskConfig(), valid=valid)
    assert mask.visible[:4].tolist() == [32, 25, 1, 0]
    assert not (mask.hidden & ~valid).any()
    assert (mask.hidden.sum(1) + mask.visible == valid.sum(1)).all()
    for row in range(4):
        assert valid[row, mask.order[row, : mask.visible[row]]].all()
        assert np.asarray(mask.slots_ok(32))[row].sum() == mask.visible[row]


def test_without_room_for_padding_a_padded_window_shows_no_hidden_patch():
    """With one ratio, one kind and padding=False the encoder takes the first 32 of the order and masks none of them."""
    valid = np.ones((BATCH, N), bool)
    valid[:4] = np.arange(N) < np.array([[128], [100], [4], [0]])
    config = MaskConfig(padding=False)
    mask = drawn(config, valid=valid)
    assert not config.varies
    assert (mask.visible == config.visible_slots(N)).all()
    shown = np.take_along_axis(mask.hidden, mask.order[:, : config.visible_slots(N)], axis=1)
    assert not shown.any()
    assert not (mask.hidden & ~valid).any()


def test_a_given_mask_takes_the_same_form():
    hidden = np.zeros((2, N), bool)
    hidden[0, 10:26], hidden[1, :] = True, True
    mask = masking.of_hidden(jnp.asarray(hidden))
    assert np.asarray(mask.visible).tolist() == [112, 0]
    assert np.asarray(mask.order[0, :112]).tolist() == [n for n in range(N) if not 10 <= n < 26]
    np.testing.assert_array_equal(mask.hidden, hidden)


def test_a_patch_is_valid_where_all_its_samples_are():
    valid = np.ones((1, 16), np.float32)
    valid[0, 7] = 0
    assert np.asarray(masking.patch_valid(jnp.asarray(valid), 4)).tolist() == [[True, False, True, True]]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"ratio": 1.0}, "mask.ratio"),
        ({"span": 0}, "mask.span"),
        ({"kind_weights": (1.0, 2.0)}, "kind_weights"),
        ({"kind_weights": (-1.0,)}, "kind_weights"),
        ({"span": ()}, "mask.span"),
        ({"ratio": ()}, "mask.ratio"),
    ],
)
def test_rejects_invalid_masks(options, word):
    with pytest.raises(ValueError, match=word):
        MaskConfig(**options)
