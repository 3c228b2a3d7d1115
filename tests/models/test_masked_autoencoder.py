"""The network against an independent PyTorch one, and against the published parameter counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dreamjax.models.layers import matmul, sincos_positions
from dreamjax.models.masked_autoencoder import MaskedAutoencoder, patchify, permute, unpatchify

SIZES = {
    "channels": 5,
    "patch": 4,
    "dim": 24,
    "depth": 2,
    "heads": 4,
    "mlp_ratio": 2.0,
    "decoder_dim": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
B, C, T, N, VISIBLE = 3, 5, 64, 16, 6


@pytest.fixture(autouse=True, scope="module")
def _quick_compiles():
    """The programs here are tiny and run once: most of the time would be XLA's optimisation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make(**options):
    """A network whose parameters are NumPy's: compiling JAX's random numbers would take longer than the tests."""
    abstract = nnx.eval_shape(lambda: MaskedAutoencoder(**(SIZES | options), rngs=nnx.Rngs(params=0)))
    graph, shapes = nnx.split(abstract, nnx.Param)
    rng = np.random.default_rng(0)
    draw = lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.1 + (s.ndim == 1), jnp.float32)  # noqa: E731
    return nnx.merge(graph, jax.tree.map(draw, nnx.to_pure_dict(shapes)))


@pytest.fixture(scope="module")
def network():
    return make()


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(B, C, T)).astype(np.float32)
    order = np.stack([rng.permutation(N) for _ in range(B)])
    return signal, order


def parameters(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


# ----------------------------------------------------------------------------------- an independent PyTorch network
def torch_network(torch, params):
    """The reference's network from torch.nn parts alone: Conv1d, LayerNorm, MultiheadAttention, boolean masks."""
    nn = torch.nn

    def tensor(x):
        return torch.tensor(np.asarray(x))

    def linear(p):
        layer = nn.Linear(*p["kernel"].shape)
        layer.weight.data, layer.bias.data = tensor(p["kernel"]).T.contiguous(), tensor(p["bias"])
        return layer

    def norm(p):
        layer = nn.LayerNorm(p["scale"].shape[0], eps=1e-5)
        layer.weight.data, layer.bias.data = tensor(p["scale"]), tensor(p["bias"])
        return layer

    class Block(nn.Module):
        def __init__(self, p, heads):
            super().__init__()
            self.norm1, self.norm2 = norm(p["norm1"]), norm(p["norm2"])
            self.attention = nn.MultiheadAttention(p["norm1"]["scale"].shape[0], heads, batch_first=True)
            self.attention.in_proj_weight.data = tensor(p["attn"]["qkv"]["kernel"]).T.contiguous()
            self.attention.in_proj_bias.data = tensor(p["attn"]["qkv"]["bias"])
            self.attention.out_proj = linear(p["attn"]["proj"])
            self.fc1, self.fc2 = linear(p["mlp"]["fc1"]), linear(p["mlp"]["fc2"])

        def forward(self, x):
            y = self.norm1(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))

    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            kernel = tensor(params["patch_embed"]["kernel"])
            self.conv = nn.Conv1d(kernel.shape[1], kernel.shape[2], kernel.shape[0], stride=kernel.shape[0])
            self.conv.weight.data, self.conv.bias.data = (
                kernel.permute(2, 1, 0).contiguous(),
                tensor(params["patch_embed"]["bias"]),
            )
            self.cls, self.mask = nn.Parameter(tensor(params["cls_token"])), nn.Parameter(tensor(params["mask_token"]))
            layers = [jax.tree.map(lambda a, i=i: a[i], params["blocks"]) for i in range(SIZES["depth"])]
            self.blocks = nn.ModuleList(Block(p, SIZES["heads"]) for p in layers)
            layers = [
                jax.tree.map(lambda a, i=i: a[i], params["decoder_blocks"]) for i in range(SIZES["decoder_depth"])
            ]
            self.decoder_blocks = nn.ModuleList(Block(p, SIZES["decoder_heads"]) for p in layers)
            self.norm, self.decoder_norm = norm(params["norm"]), norm(params["decoder_norm"])
            self.embed, self.pred = linear(params["decoder_embed"]), linear(params["decoder_pred"])

        @staticmethod
        def positions(n, dim):
            t, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(dim // 2, dtype=torch.float64)
            angle = t / 10000 ** (2 * i / dim)
            return torch.cat([angle.sin(), angle.cos()], dim=1).float()

        def forward(self, signal, order):
            x = self.conv(signal).transpose(1, 2)
            x = x + self.positions(N, x.shape[2])
            rows = []
            for b in range(len(x)):  # one example at a time: no gather, no scatter to get wrong together
                kept = order[b, :VISIBLE].tolist()
                y = torch.cat([self.cls[0], x[b][kept]])[None]
                for block in self.blocks:
                    y = block(y)
                y = self.embed(self.norm(y))[0]
                full = [self.mask[0, 0]] * N
                for slot, place in enumerate(kept):
                    full[place] = y[1 + slot]
                full = torch.stack(full) + self.positions(N, y.shape[1])
                y = torch.cat([y[:1], full])[None]
                for block in self.decoder_blocks:
                    y = block(y)
                rows.append(self.pred(self.decoder_norm(y))[0, 1:])
            return torch.stack(rows)

    return Autoencoder()


def test_forward_and_gradients_equal_an_independent_torch_network(network, batch):
    torch = pytest.importorskip("torch")
    signal, order = batch
    params = jax.tree.map(np.asarray, parameters(network))
    twin = torch_network(torch, params)
    graph = nnx.split(network, nnx.Param)[0]

    def apply(params):
        return nnx.merge(graph, params)(patchify(signal, 4), order, VISIBLE)

    theirs = twin(torch.tensor(signal), torch.tensor(order))
    ours, pull = jax.vjp(jax.jit(apply), params)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4, rtol=1e-4)

    (theirs**2).mean().backward()
    (grads,) = pull(2 * ours / ours.size)

    def close(ours, theirs):
        theirs = theirs.grad.numpy()
        assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()

    close(grads["patch_embed"]["kernel"].transpose(2, 1, 0), twin.conv.weight)
    close(grads["cls_token"], twin.cls)
    close(grads["mask_token"], twin.mask)
    close(grads["decoder_embed"]["kernel"].T, twin.embed.weight)
    close(grads["decoder_pred"]["bias"], twin.pred.bias)
    for i in range(SIZES["depth"]):
        block = twin.blocks[i]
        close(grads["blocks"]["attn"]["qkv"]["kernel"][i].T, block.attention.in_proj_weight)
        close(grads["blocks"]["attn"]["proj"]["bias"][i], block.attention.out_proj.bias)
        close(grads["blocks"]["norm1"]["scale"][i], block.norm1.weight)
        close(grads["blocks"]["mlp"]["fc1"]["kernel"][i].T, block.fc1.weight)
        close(grads["blocks"]["mlp"]["fc2"]["bias"][i], block.fc2.bias)
    for i in range(SIZES["decoder_depth"]):
        close(grads["decoder_blocks"]["mlp"]["fc2"]["kernel"][i].T, twin.decoder_blocks[i].fc2.weight)


# ---------------------------------------------------------------------------------------------- how it is computed
@pytest.mark.parametrize(
    "options", [{"scan_layers": False, "remat": "full"}, {"remat": "names", "remat_names": ("qkv",)}]
)
def test_scanned_unrolled_and_rematerialised_layers_agree(network, batch, options):
    signal, order = batch
    params = parameters(network)

    def loss(model):
        graph = nnx.split(model, nnx.Param)[0]
        return jax.jit(
            jax.value_and_grad(lambda p: (nnx.merge(graph, p)(patchify(signal, 4), order, VISIBLE) ** 2).mean())
        )

    variant = make(**options)
    expected, grads = loss(network)(params)
    got, other = loss(variant)(params)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), other, grads)


def test_empty_slots_change_nothing(network, batch):
    """With more slots than visible patches the extra ones are neither attended nor used: the same prediction."""
    signal, order = batch
    run = nnx.jit(lambda model, *args: model(*args), static_argnums=3)
    exact = run(network, patchify(signal, 4), order, VISIBLE)
    for slots in (VISIBLE + 4, N):
        ok = np.broadcast_to(np.arange(slots) < VISIBLE, (B, slots))
        roomy = run(network, patchify(signal, 4), order, slots, jnp.asarray(ok), jnp.ones((B, N), bool))
        np.testing.assert_allclose(roomy, exact, atol=2e-5)


def test_padding_is_not_attended(network, batch):
    """Values in invalid patches, and hidden ones, reach no prediction of a valid patch."""
    signal, _ = batch
    valid = np.arange(N) < 12
    order = np.broadcast_to(np.concatenate([np.arange(12), np.arange(12, N)]), (B, N))
    ok, valid = np.ones((B, 8), bool), np.broadcast_to(valid, (B, N))

    run = nnx.jit(lambda model, patches: model(patches, jnp.asarray(order), 8, jnp.asarray(ok), jnp.asarray(valid)))

    def predict(x):
        return np.asarray(run(network, patchify(x, 4)))

    changed = signal.copy()
    changed[:, :, 8 * 4 :] += 100.0  # patches 8 … 11 are hidden, 12 … 15 invalid
    np.testing.assert_array_equal(predict(signal)[:, :12], predict(changed)[:, :12])


def test_kernel_gradients_are_summed_in_float32():
    """2¹⁶ equal tokens of bfloat16: the sum 65,536 · 1 needs more than bfloat16's 8 bits when partial sums are kept."""
    x = jnp.ones((4096, 1), jnp.bfloat16)
    dy = jnp.concatenate([jnp.full((1, 1), 256.0), jnp.full((4095, 1), 0.5)]).astype(jnp.bfloat16)
    _, pull = jax.vjp(lambda w: matmul(x, w, jnp.bfloat16), jnp.ones((1, 1), jnp.float32))
    (grad,) = pull(dy)
    assert grad.dtype == jnp.float32
    assert float(grad[0, 0]) == 256 + 4095 / 2


def test_patches_are_time_major():
    signal = np.arange(2 * 3 * 8, dtype=np.float32).reshape(2, 3, 8)  # value = 24 b + 8 c + t
    patches = np.asarray(patchify(signal, 4))
    assert patches.shape == (2, 2, 12)
    assert patches[1, 1].tolist() == [24 + 8 * c + t for t in range(4, 8) for c in range(3)]
    np.testing.assert_array_equal(unpatchify(patches, 3), signal)


def test_a_permutation_and_its_gradient():
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(2, 2, 6, 3)).astype(np.float32)
    order = np.stack([rng.permutation(6) for _ in range(2)])
    inverse = np.argsort(order, axis=1)
    grad = jax.grad(lambda x: (permute(x, order, inverse) * w).sum())(x)
    expected = np.zeros_like(x)
    for b in range(2):
        for n in range(6):
            expected[b, order[b, n]] += w[b, n]
    np.testing.assert_allclose(grad, expected)


def test_sincos_positions_by_hand():
    table = sincos_positions(3, 4)
    np.testing.assert_allclose(table[2], [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)], rtol=1e-6)


def test_initialisation_follows_the_reference():
    """Xavier-uniform bounds sqrt(6 / (in + out)) for linear layers, N(0, 0.02) tokens and patches, biases zero."""
    build = jax.jit(lambda: nnx.to_pure_dict(nnx.state(MaskedAutoencoder(**SIZES, rngs=nnx.Rngs(params=0)), nnx.Param)))
    params = build()
    bound = np.sqrt(6 / (24 + 72))
    qkv = np.asarray(params["blocks"]["attn"]["qkv"]["kernel"])
    assert 0.95 * bound < np.abs(qkv).max() <= bound
    assert not np.array_equal(qkv[0], qkv[1])
    np.testing.assert_allclose(np.std(params["patch_embed"]["kernel"]), 0.02, rtol=0.15)
    assert not np.any(params["decoder_pred"]["bias"])
    assert np.all(np.asarray(params["blocks"]["norm1"]["scale"]) == 1)
