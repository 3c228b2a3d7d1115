"""The base of every published transformer encoder: an embedding, equal blocks, and access to their outputs.

Shape letters: B batch, T tokens, D width, L layers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from dreamjax.errors import UserError
from dreamjax.models.attention import Attention
from dreamjax.models.keys import Keys
from dreamjax.models.layers import Dtype
from dreamjax.models.transformer import M, Remat, TransformerBlock, run_stack, stack


class Encoded(NamedTuple):
    """Output of an encoder; each encoder documents what is normalised, pooled and projected."""

    last_hidden_state: Float[Array, "B T D"]
    pooled: Float[Array, "B D"] | None
    projected: Float[Array, "B P"] | None = None


class Encoder(nnx.Module):
    """`depth` blocks of width `dim`; a subclass adds `embed`, which turns its inputs into the first block's tokens.

    `dtype` is the type of the computation; parameters are float32. `block`: further arguments of `TransformerBlock`.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        rngs: Keys,
        dtype: Dtype = jnp.float32,
        attention: Attention = "auto",
        scan_layers: bool = True,
        remat: Remat = "none",
        remat_names: tuple[str, ...] = (),
        **block: Any,
    ):
        make = functools.partial(TransformerBlock, dim, heads, dtype=dtype, implementation=attention, **block)
        self.blocks = stack(depth, rngs, lambda rngs: make(rngs=rngs))
        self.dim, self.depth, self.dtype = dim, depth, dtype
        self.run: Any = functools.partial(run_stack, scan=scan_layers, remat=remat, names=remat_names)

    def embed(self, inputs: Array) -> Float[Array, "B T D"]:
        """Return the tokens of the first block."""
        raise NotImplementedError

    def hidden_states(self, inputs: Array, keys_ok_BxT: Bool[Array, "B T"] | None = None) -> Float[Array, "L+1 B T D"]:
        """Return transformers' `hidden_states`: the embedding, then each block's output, before any final norm."""
        x_BxTxD = self.embed(inputs)
        _, every_LxBxTxD = self.run(self.blocks, x_BxTxD, keys_ok_BxT, collect=True)
        return jnp.concatenate([x_BxTxD[None], every_LxBxTxD])

    def hidden_state(
        self, inputs: Array, layer: int, keys_ok_BxT: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """Return `hidden_states[layer]`, also counted from the end; blocks above it are not computed.

        Raises UserError for a layer that the model does not have.
        """
        if not -self.depth - 1 <= layer <= self.depth:
            raise UserError(
                f"hidden state {layer} does not exist; this model has 0 to {self.depth}, or {-self.depth - 1} to -1 "
                "counted from the end"
            )
        count = range(self.depth + 1)[layer]
        x_BxTxD = self.embed(inputs)
        return self.run(_first(self.blocks, count), x_BxTxD, keys_ok_BxT) if count else x_BxTxD


def _first(blocks: M, count: int) -> M:
    """Return the first `count` blocks of a stack."""
    graph, params = nnx.split(blocks)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[:count], params))
