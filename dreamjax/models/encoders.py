"""Published transformer encoders: CLIP's text and vision models, DINOv2 and ViT, on one base.

Shape letters: B batch, T tokens, D width, P width of CLIP's common space, H/W height and width in pixels, h/w in
patches, C channels, N = h · w patches, R registers, K classes.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dreamjax.errors import UserError
from dreamjax.models.attention import Attention
from dreamjax.models.layers import Dtype, Keys, LayerNorm, Linear, PatchEmbed, small_normal
from dreamjax.models.transformer import Remat, TransformerBlock, run_stack, stack

Pooling = Literal["cls", "patches", "tokens"]
Filter = Literal["bicubic", "bicubic_antialias"]
OLD_EOS = 2  # in older configs of CLIP, whose actual end token is the largest id of a text


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
        **block: Any,
    ):
        make = functools.partial(TransformerBlock, dim, heads, dtype=dtype, implementation=attention, **block)
        self.blocks = stack(depth, rngs, lambda rngs: make(rngs=rngs))
        self.dim, self.depth, self.dtype = dim, depth, dtype
        self.run: Any = functools.partial(run_stack, scan=scan_layers, remat=remat)

    def embed(self, inputs: Array) -> Float[Array, "B T D"]:
        """Return the tokens of the first block."""
        raise NotImplementedError

    def hidden_state(
        self, inputs: Array, layer: int, keys_ok_BxT: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """Return transformers' `hidden_states[layer]`, before any final norm, also counted from the end.

        Blocks above it are not computed. Raises UserError for a layer that the model does not have.
        """
        if not -self.depth - 1 <= layer <= self.depth:
            raise UserError(
                f"hidden state {layer} does not exist; this model has 0 to {self.depth}, or {-self.depth - 1} to -1 "
                "counted from the end"
            )
        count = range(self.depth + 1)[layer]
        x_BxTxD = self.embed(inputs)
        graph, params = nnx.split(self.blocks)
        first = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[:count], params))
        return self.run(first, x_BxTxD, keys_ok_BxT) if count else x_BxTxD


class CLIPText(Encoder):
    """CLIP's text model (Radford et al. 2021, arXiv 2103.00020): causal blocks over token ids.

    OpenAI's and OpenCLIP's differ by the activation, by widths, and by how the end of a text is determined. Stable
    Diffusion 1 takes `last_hidden_state`; 2 skips OpenCLIP's last block, which its file does not have: with a whole
    model that is `norm(hidden_state(ids, -2))`. `projection`: width of the common space, or 0.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        positions: int,
        dim: int,
        eos: int,
        rngs: Keys,
        projection: int = 0,
        epsilon: float = 1e-5,
        **options: Any,
    ):
        super().__init__(dim=dim, rngs=rngs, epsilon=epsilon, causal=True, **options)
        self.token_embed, self.pos_embed = small_normal(rngs, vocabulary, dim), small_normal(rngs, positions, dim)
        self.norm = LayerNorm(dim, dtype=self.dtype, epsilon=epsilon)
        self.has_projection = bool(projection)
        if projection:
            self.projection = Linear(dim, projection, dtype=self.dtype, rngs=rngs, bias=False)
        self.eos, self.positions = eos, positions

    def embed(self, ids_BxT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Return tokens plus positions. Raise UserError for more tokens than there are positions."""
        T = ids_BxT.shape[1]
        if self.positions < T:
            raise UserError(f"a text of {T} tokens is too long for this network, which has {self.positions} positions")
        return (jnp.take(self.token_embed[...], ids_BxT, axis=0) + self.pos_embed[...][:T]).astype(self.dtype)

    def __call__(self, ids_BxT: Int[Array, "B T"], keys_ok_BxT: Bool[Array, "B T"] | None = None) -> Encoded:
        """Return `last_hidden_state` [B, T, D] after the final norm, its end token [B, D], and that projected [B, P].

        `keys_ok` is transformers' `attention_mask`: False for padding that nothing attends to.
        """
        x_BxTxD = self.norm(self.run(self.blocks, self.embed(ids_BxT), keys_ok_BxT))
        end_B = jnp.argmax(ids_BxT if self.eos == OLD_EOS else ids_BxT == self.eos, axis=1)
        pooled_BxD = jnp.take_along_axis(x_BxTxD, end_B[:, None, None], axis=1)[:, 0]
        return Encoded(x_BxTxD, pooled_BxD, self.projection(pooled_BxD) if self.has_projection else None)


# ---------------------------------------------------------------------------------------------- vision transformers
class VisionTransformer(Encoder):
    """A vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929): blocks over [cls, registers, patches].

    - `image`: side in pixels that the learned positions belong to; `patch`: of a patch.
    - `resize`: what happens to the positions for images of another size; "none" refuses them.
    - `pre_norm`: a layer norm before the first block.
    - `mask_token`: a learned token for masked patches, which files hold and training alone uses.
    """

    def __init__(
        self,
        *,
        image: int,
        patch: int,
        dim: int,
        rngs: Keys,
        channels: int = 3,
        patch_bias: bool = True,
        registers: int = 0,
        mask_token: bool = False,
        pre_norm: bool = False,
        resize: Literal["none"] | Filter = "none",
        epsilon: float = 1e-6,
        **options: Any,
    ):
        super().__init__(dim=dim, rngs=rngs, epsilon=epsilon, **options)
        self.image, self.patch, self.channels, self.grid = image, patch, channels, image // patch
        self.registers, self.resize = registers, resize
        self.patch_embed = PatchEmbed(patch, patch, channels, dim, dtype=self.dtype, rngs=rngs, bias=patch_bias)
        self.cls_token, self.pos_embed = small_normal(rngs, dim), small_normal(rngs, 1 + self.grid**2, dim)
        if registers:
            self.register_tokens = small_normal(rngs, registers, dim)
        if mask_token:
            self.mask_token = small_normal(rngs, dim)
        self.has_pre_norm = pre_norm
        if pre_norm:
            self.pre_norm = LayerNorm(dim, dtype=self.dtype, epsilon=epsilon)
        self.norm = LayerNorm(dim, dtype=self.dtype, epsilon=epsilon)

    def embed(self, pixels: Float[Array, "B H W C"]) -> Float[Array, "B 1+R+N D"]:
        """Return tokens plus positions; patches cut by the edge are dropped. Raises UserError for a wrong size."""
        self._check(pixels)
        p, (B, H, W, C), D = self.patch, pixels.shape, self.dim
        h, w = H // p, W // p
        patches = pixels[:, : h * p, : w * p].reshape(B, h, p, w, p, C).swapaxes(2, 3).reshape(B, h * w, p * p * C)
        patches_BxNxD = self.patch_embed(patches)
        positions = self.pos_embed[...]
        cls = jnp.broadcast_to(self.cls_token[...] + positions[0], (B, 1, D))
        places = positions[1:]
        if self.resize != "none" and (h, w) != (self.grid, self.grid):
            places = resample(places.reshape(self.grid, self.grid, D), (h, w), self.resize).reshape(h * w, D)
        parts = [cls, patches_BxNxD + places]
        if self.registers:  # they have no position
            parts.insert(1, jnp.broadcast_to(self.register_tokens[...], (B, self.registers, D)))
        x = jnp.concatenate(parts, axis=1).astype(self.dtype)
        return self.pre_norm(x) if self.has_pre_norm else x

    def _check(self, pixels: Array) -> None:
        if pixels.ndim != 4 or pixels.shape[3] != self.channels:
            raise UserError(f"images have the shape (batch, height, width, {self.channels}), not {pixels.shape}")
        H, W = pixels.shape[1:3]
        if self.resize == "none" and (self.image, self.image) != (H, W):
            raise UserError(f"this network takes images of {self.image} x {self.image} pixels, not of {H} x {W}")
        if min(H, W) < self.patch:
            raise UserError(f"an image of {H} x {W} pixels is smaller than one patch of {self.patch} x {self.patch}")

    def pool(self, tokens: Float[Array, "B 1+R+N D"], pooling: Pooling) -> Array:
        """Return the cls token [B, D], the mean over the patches [B, D], or all tokens as they are [B, 1+R+N, D]."""
        if pooling == "cls":
            return tokens[:, 0]
        return tokens if pooling == "tokens" else tokens[:, 1 + self.registers :].mean(1)


class CLIPVision(VisionTransformer):
    """Blocks over a normed [cls, patches]. `projection`: width of the common space, or 0. `options`: as the bases'."""

    def __init__(self, *, dim: int, rngs: Keys, projection: int = 0, epsilon: float = 1e-5, **options: Any):
        super().__init__(dim=dim, rngs=rngs, epsilon=epsilon, patch_bias=False, pre_norm=True, **options)
        self.has_projection = bool(projection)
        if projection:
            self.projection = Linear(dim, projection, dtype=self.dtype, rngs=rngs, bias=False)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Encoded:
        """Return `last_hidden_state` [B, 1+N, D] without norm, its cls token after the norm [B, D], its projection."""
        x_BxTxD = self.run(self.blocks, self.embed(pixels), None)
        pooled_BxD = self.norm(x_BxTxD[:, 0])
        return Encoded(x_BxTxD, pooled_BxD, self.projection(pooled_BxD) if self.has_projection else None)


class DINOv2(VisionTransformer):
    """DINOv2 (Oquab et al. 2023, arXiv 2304.07193), S to g, also with registers (Darcet et al. 2023, arXiv 2309.16588).

    Blocks with layer scale; images of any size, to which the positions are resampled: `resize` is "bicubic" without
    registers, "bicubic_antialias" with them. `swiglu`: the feed-forward part of the g model.
    """

    def __init__(
        self,
        *,
        mlp_ratio: float = 4.0,
        swiglu: bool = False,
        layer_scale: float = 1.0,
        activation: str = "gelu",
        **options: Any,
    ):
        hidden = mlp_width(options["dim"], mlp_ratio, swiglu)
        gate, activation = ("first", "silu") if swiglu else ("none", activation)
        super().__init__(hidden=hidden, gate=gate, activation=activation, layer_scale=layer_scale, **options)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Encoded:
        """Return `last_hidden_state` [B, 1+R+N, D] after the final norm, and its cls token [B, D]."""
        x = self.norm(self.run(self.blocks, self.embed(pixels), None))
        return Encoded(x, x[:, 0])


def mlp_width(dim: int, ratio: float, swiglu: bool) -> int:
    """Return the hidden width of a block; with SwiGLU, which has three matrices, two thirds, rounded up to 8."""
    hidden = int(dim * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden


class ViT(VisionTransformer):
    """ViT (Dosovitskiy et al. 2021, arXiv 2010.11929) as a classifier of `classes`, or an encoder with BERT's pooler.

    `classes`: 0 without; `pooler`: width of tanh(W cls + b), 0 without. `options`: as the bases'.
    """

    def __init__(
        self, *, dim: int, rngs: Keys, classes: int = 0, pooler: int = 0, epsilon: float = 1e-12, **options: Any
    ):
        super().__init__(dim=dim, rngs=rngs, epsilon=epsilon, **options)
        self.has_pooler = bool(pooler)
        if classes:
            self.classifier = Linear(dim, classes, dtype=self.dtype, rngs=rngs)
        if pooler:
            self.pooler = Linear(dim, pooler, dtype=self.dtype, rngs=rngs)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Encoded:
        """Return `last_hidden_state` [B, 1+N, D] after the final norm; `pooled`, where there is a pooler."""
        x_BxTxD = self.norm(self.run(self.blocks, self.embed(pixels), None))
        return Encoded(x_BxTxD, jnp.tanh(self.pooler(x_BxTxD[:, 0])) if self.has_pooler else None)

    def logits(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Return the classifier's logits, from the cls token after the final norm."""
        return self.classifier(self(pixels).last_hidden_state[:, 0])


def resample(grid: Float[Array, "h w D"], size: tuple[int, int], filter: Filter) -> Float[Array, "y x D"]:
    """Return `grid` at another size, float32: bicubic convolution (Keys 1981), one matrix per axis.

    As torch's `interpolate` without aligned corners.
    """
    rows, columns = (matrix(n, m, filter) for n, m in zip(grid.shape[:2], size, strict=True))
    exact = jax.lax.Precision.HIGHEST  # accelerators would round float32 products to bfloat16
    return jnp.einsum("yh,xw,hwd->yxd", rows, columns, grid, precision=exact)


def matrix(n: int, m: int, filter: Filter) -> Float[np.ndarray, "m n"]:
    """Return the weights of n old points for each of m new ones.

    Without antialiasing torch takes a = -0.75 and repeats the border; with it a = -0.5, a kernel as wide as the
    reduction, and weights that sum to one inside the grid.
    """
    scale = n / m
    antialias = filter == "bicubic_antialias"
    width, a = (max(scale, 1.0), -0.5) if antialias else (1.0, -0.75)
    centres = (np.arange(m) + 0.5) * scale - 0.5  # of the new points, in units of the old ones
    reach = int(np.ceil(2 * width)) + 1
    points = np.floor(centres).astype(int)[:, None] + np.arange(-reach, reach + 1)
    t = np.abs((points - centres[:, None]) / width)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    weights = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    if antialias:
        weights = np.where((points >= 0) & (points < n), weights, 0.0)
        weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m)[:, None], points.clip(0, n - 1)), weights)
    return matrix.astype(np.float32)
