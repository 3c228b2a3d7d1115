"""Draw the hidden patches of a window on the device, keyed by (seed, "mask", global example index).

A mask is a permutation of the patches, visible ones first, and a count. The number of visible *slots* is fixed, so one
compiled step serves every ratio and kind of a mixture; where all examples keep the same number, no slot is empty and
attention needs no mask.

- random: every patch has u ~ U(0, 1); the int(n (1 - ratio)) smallest stay visible (MAE; DreamDiffusion).
- block: time is cut into spans of `span` patches at a random offset, every *span* has such a u: hidden patches lie in
  contiguous spans, exactly as many as with `random`.
- channel: no patch is hidden; the pipeline removed real channels before any referencing or interpolation, and the
  loss is on those.

Shape letters: B batch, N patches, V visible slots, K choices of a mixture.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

Kind = Literal["random", "block", "channel"]


@dataclass(frozen=True)
class MaskConfig:
    """The masks of training windows. Lists are mixtures: every example draws one kind, ratio and span."""

    ratio: float | tuple[float, ...] = 0.75  # share of the valid patches that is hidden
    ratio_between: bool = False  # draw any ratio from the smallest to the largest listed, not one of the list
    kind: Kind | tuple[Kind, ...] = "random"
    kind_weights: tuple[float, ...] = ()  # one per kind; equal by default
    span: int | tuple[int, ...] = 16  # patches; length of the spans of kind block
    padding: bool = True  # keep padding out of the attention; False: where slots are fixed, treat it as any patch

    def __post_init__(self) -> None:
        if not self.kinds or not self.ratios or not self.spans:
            raise ValueError("mask.kind, mask.ratio and mask.span need at least one value each")
        for ratio in self.ratios:
            if not 0 <= ratio < 1:
                raise ValueError(f"mask.ratio is {ratio}, but it is a share from 0 to below 1")
        if min(self.spans) < 1:
            raise ValueError(f"mask.span is {self.span}, but a span is at least one patch")
        if self.kind_weights and len(self.kind_weights) != len(self.kinds):
            raise ValueError(f"mask.kind_weights has {len(self.kind_weights)} values for {len(self.kinds)} kinds")
        if self.kind_weights and not (min(self.kind_weights) >= 0 < sum(self.kind_weights)):
            raise ValueError(f"mask.kind_weights is {self.kind_weights}, but weights are 0 or more, and not all 0")

    @property
    def ratios(self) -> tuple[float, ...]:
        return self.ratio if isinstance(self.ratio, tuple) else (self.ratio,)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return self.kind if isinstance(self.kind, tuple) else (self.kind,)

    @property
    def spans(self) -> tuple[int, ...]:
        return self.span if isinstance(self.span, tuple) else (self.span,)

    @property
    def varies(self) -> bool:
        """Return whether examples may differ in their number of visible patches."""
        return self.padding or len(self.ratios) > 1 or ("channel" in self.kinds and len(self.kinds) > 1)

    def visible_slots(self, patches: int) -> int:
        """Return the largest number of visible patches of any mask: the encoder's static length."""
        if "channel" in self.kinds:
            return patches
        return keep_count(patches, min(self.ratios))

    def mean_visible(self, patches: int) -> float:
        """Return the expected number of visible patches of a full window."""
        weights = np.asarray(self.kind_weights or [1.0] * len(self.kinds))
        hidden_in_time = (
            sum(w for w, kind in zip(weights, self.kinds, strict=True) if kind != "channel") / weights.sum()
        )
        ratios = (min(self.ratios), max(self.ratios)) if self.ratio_between else self.ratios
        kept = float(np.mean([keep_count(patches, ratio) for ratio in ratios]))
        return hidden_in_time * kept + (1 - hidden_in_time) * patches


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mask:
    """The masks of a batch."""

    order: Int[Array, "B N"]  # a permutation: visible patches first, then hidden ones, padding last
    visible: Int[Array, "B"]  # how many are visible
    hidden: Bool[Array, "B N"]  # in time order: hidden and valid
    valid: Bool[Array, "B N"]  # in time order: not padding
    channel: Bool[Array, "B"]  # whether real channels are masked instead of time

    def slots_ok(self, slots: int) -> Bool[Array, "B V"]:
        return jnp.arange(slots) < self.visible[:, None]


def keep_count(patches: int, ratio: float) -> int:
    """Return int(N (1 - ratio)), as the reference computes it: N = 128 keeps 32 at 0.75 and 115 at 0.1."""
    return int(patches * (1 - ratio))


def example_keys(seed: int | Array, purpose: str, index: UInt32[Array, "B 2"]) -> PRNGKeyArray:
    """Return one key per example, folded from (seed, purpose, high and low half of its global index), not its row."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i[0]), i[1]))(index)


def draw(config: MaskConfig, seed: int | Array, index: UInt32[Array, "B 2"], valid: Bool[Array, "B N"]) -> Mask:
    """Return the masks of a batch; that of an example does not depend on its batch or device."""
    keys = example_keys(seed, "mask", index)
    return jax.vmap(lambda key, row: _draw_one(config, key, row))(keys, valid)


def of_hidden(hidden: Bool[Array, "B N"], valid: Bool[Array, "B N"] | None = None) -> Mask:
    """Return the `Mask` of a given mask (True = hidden)."""
    valid = jnp.ones_like(hidden) if valid is None else valid
    rank = jnp.where(valid, hidden.astype(jnp.int32), 2)
    visible = (rank == 0).sum(1)
    return Mask(
        jnp.argsort(rank, axis=1, stable=True), visible, hidden & valid, valid, jnp.zeros(hidden.shape[0], bool)
    )


def patch_valid(valid: Float[Array, "B T"], patch: int) -> Bool[Array, "B N"]:
    """Return which patches are valid: those whose samples all are."""
    return valid.reshape(valid.shape[0], -1, patch).min(axis=2) > 0


def _draw_one(config: MaskConfig, key: PRNGKeyArray, valid_N: Bool[Array, "N"]) -> Mask:
    N = valid_N.shape[0]
    scores, kind, ratio, span, phase = jax.random.split(key, 5)
    weights = jnp.log(jnp.asarray(config.kind_weights or [1.0] * len(config.kinds), jnp.float32))
    k = jax.random.categorical(kind, weights) if len(config.kinds) > 1 else 0
    is_block = jnp.asarray([name == "block" for name in config.kinds])[k]
    is_channel = jnp.asarray([name == "channel" for name in config.kinds])[k]

    # with a fixed number of visible slots every window must fill them, or hidden patches would stand in the rest
    drawn_N = valid_N if config.varies else jnp.ones_like(valid_N)
    length = jnp.where(is_block, jax.random.choice(span, jnp.asarray(config.spans)), 1)
    cell_N = (jnp.arange(N) + jax.random.randint(phase, (), 0, length)) // length
    score_N = jnp.where(drawn_N, jax.random.uniform(scores, (N + 1,))[cell_N], jnp.inf)
    order_N = jnp.argsort(score_N, stable=True)
    rank_N = jnp.argsort(order_N)

    n_valid = drawn_N.sum()
    visible = jnp.where(is_channel, n_valid, _keep(config, ratio, n_valid, N))
    return Mask(order_N, visible, (rank_N >= visible) & valid_N, valid_N, is_channel)


def _keep(config: MaskConfig, key: PRNGKeyArray, n_valid: Int[Array, ""], N: int) -> Int[Array, ""]:
    """Return the number of visible patches for a drawn ratio; of the listed ratios exactly `keep_count`."""
    if config.ratio_between:
        low, high = (
            jnp.asarray([keep_count(n, r) for n in range(N + 1)]) for r in (max(config.ratios), min(config.ratios))
        )
        return jax.random.randint(key, (), low[n_valid], high[n_valid] + 1)
    table = jnp.asarray([[keep_count(n, r) for n in range(N + 1)] for r in config.ratios])
    return jax.random.choice(key, table[:, n_valid])
