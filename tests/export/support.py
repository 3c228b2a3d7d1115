"""Tiny runs and checkpoints that the tests of this folder share."""

import collections
import dataclasses
import importlib.util
import sys

import jax
import numpy as np
import torch
from torch import nn

from dreamjax import config as configs
from dreamjax.export import driver
from dreamjax.export.facts import model_facts
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import masked_pretraining as system
from dreamjax.systems.base import Run
from dreamjax.training import checkpoints


def tiny_config(*, data=None, **model):
    """19 channels, 64 samples, two layers."""
    sizes = {"dim": 16, "depth": 2, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
    return system.MaskedPretrainingConfig(
        model=system.MaskedModelConfig(**sizes | model), data=DataConfig(**{"samples": 64} | (data or {}))
    )


def random_params(config, seed=0):
    """Parameters none of which has its initial value: zeros and ones would hide swapped names."""
    shapes = jax.eval_shape(lambda: system.init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        near = {"scale": 1.0, "log_noise": -0.7}.get(path[-1].key, 0.0)
        if path[-1].key == "log_spectrum":  # steep, as a trained one: from 0 to -6 nepers
            near = -0.6 * np.linspace(0, 1, leaf.size) ** 0.5
        return (near + 0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(value, shapes)


def make_run(workdir, config, seed=0):
    params = random_params(config, seed)
    checkpoints.save_params_as_run(workdir, configs.to_json(config), params)
    return params


def with_path(config, *paths):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=tuple(map(str, paths))))


def load_model_file(folder):
    """The torch file of an exported folder, as a user's program imports it."""
    spec = importlib.util.spec_from_file_location(f"modeling_{abs(hash(str(folder)))}", folder / "modeling_dreamjax.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write(folder, config, params):
    """An export to torch of parameters that no run holds; its module."""
    run = Run(str(folder.parent / "no_run"), config, system.MaskedPretraining(config), params, 1, 0, False)
    folder.mkdir()
    driver.write(folder, run, run.task.export(run, "torch"), model_facts(run), "torch")
    return load_model_file(folder)


class Config:
    """As DreamDiffusion pickles it: an instance of a class that no importer has."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def reference_positions(tokens, dim):
    """Section 2 of the reference: p_t = [sin(t w_i), cos(t w_i)], w_i = 10000^(-i/(D/2)); the cls row is zero."""
    table = np.zeros((1, tokens + 1, dim))
    for t in range(tokens):
        for i in range(dim // 2):
            w = 10000 ** (-i / (dim / 2))
            table[0, t + 1, i], table[0, t + 1, dim // 2 + i] = np.sin(t * w), np.cos(t * w)
    return torch.tensor(table, dtype=torch.float32)


def foreign_state(
    *, channels=6, patch=4, samples=32, dim=16, depth=2, ratio=1.0, decoder_dim=8, decoder_depth=1, seed=0
):
    """A state dict under DreamDiffusion's names, written down from the list in its checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    state = collections.OrderedDict()

    def tensor(name, *shape):
        state[name] = 0.3 * torch.randn(*shape, generator=generator)

    def layers(name, count, width):
        hidden = int(width * ratio)
        for i in range(count):
            for norm in ("norm1", "norm2"):
                tensor(f"{name}.{i}.{norm}.weight", width)
                tensor(f"{name}.{i}.{norm}.bias", width)
            for part, out, inside in (
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.fc1", hidden, width),
                ("mlp.fc2", width, hidden),
            ):
                tensor(f"{name}.{i}.{part}.weight", out, inside)
                tensor(f"{name}.{i}.{part}.bias", out)

    tokens = samples // patch
    tensor("cls_token", 1, 1, dim)
    state["pos_embed"] = reference_positions(tokens, dim)
    tensor("patch_embed.proj.weight", dim, channels, patch)
    tensor("patch_embed.proj.bias", dim)
    layers("blocks", depth, dim)
    tensor("norm.weight", dim)
    tensor("norm.bias", dim)
    if decoder_depth:
        tensor("mask_token", 1, 1, decoder_dim)
        tensor("decoder_embed.weight", decoder_dim, dim)
        tensor("decoder_embed.bias", decoder_dim)
        state["decoder_pos_embed"] = reference_positions(tokens, decoder_dim)
        layers("decoder_blocks", decoder_depth, decoder_dim)
        tensor("decoder_norm.weight", decoder_dim)
        tensor("decoder_norm.bias", decoder_dim)
        tensor("decoder_pred.weight", patch * channels, decoder_dim)
        tensor("decoder_pred.bias", patch * channels)
    return state


def torch_layer(state, prefix, dim, heads):
    """torch's own pre-norm transformer layer with the weights of one block: another implementation of the block."""
    hidden = state[f"{prefix}.mlp.fc1.weight"].shape[0]
    layer = nn.TransformerEncoderLayer(
        dim, heads, hidden, dropout=0.0, activation="gelu", layer_norm_eps=1e-5, batch_first=True, norm_first=True
    )
    renamed = {
        "self_attn.in_proj_weight": "attn.qkv.weight",
        "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.weight": "attn.proj.weight",
        "self_attn.out_proj.bias": "attn.proj.bias",
        "linear1.weight": "mlp.fc1.weight",
        "linear1.bias": "mlp.fc1.bias",
        "linear2.weight": "mlp.fc2.weight",
        "linear2.bias": "mlp.fc2.bias",
        "norm1.weight": "norm1.weight",
        "norm1.bias": "norm1.bias",
        "norm2.weight": "norm2.weight",
        "norm2.bias": "norm2.bias",
    }
    layer.load_state_dict({theirs: state[f"{prefix}.{ours}"] for theirs, ours in renamed.items()})
    return layer.eval()


@torch.no_grad()
def reference_tokens(state, x, *, heads, cls=True, keep=None):
    """The encoder by torch's own layers: (batch, [cls +] tokens, dim). `keep`: the tokens that enter."""
    dim = state["norm.weight"].shape[0]
    kernel = state["patch_embed.proj.weight"]
    tokens = nn.functional.conv1d(x, kernel, state["patch_embed.proj.bias"], stride=kernel.shape[2]).transpose(1, 2)
    tokens = tokens + state["pos_embed"][:, 1:]
    tokens = tokens if keep is None else tokens[:, keep]
    if cls:
        tokens = torch.cat([(state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), -1, -1), tokens], dim=1)
    for i in range(sum(name.endswith("norm1.weight") and name.startswith("blocks.") for name in state)):
        tokens = torch_layer(state, f"blocks.{i}", dim, heads)(tokens)
    return nn.functional.layer_norm(tokens, (dim,), state["norm.weight"], state["norm.bias"], 1e-5)


@torch.no_grad()
def reference_reconstruction(state, x, keep, *, heads, decoder_heads):
    """The masked autoencoder by torch's own layers: hidden tokens are removed, decoded and unpatched, time-major."""
    width = state["decoder_norm.weight"].shape[0]
    channels = x.shape[1]
    encoded = reference_tokens(state, x, heads=heads, keep=keep)
    encoded = nn.functional.linear(encoded, state["decoder_embed.weight"], state["decoder_embed.bias"])
    tokens = state["pos_embed"].shape[1] - 1
    filled = state["mask_token"].repeat(len(x), tokens, 1)
    filled[:, keep] = encoded[:, 1:]
    y = torch.cat([encoded[:, :1], filled], dim=1) + state["decoder_pos_embed"]
    for i in range(sum(name.endswith("norm1.weight") and name.startswith("decoder_blocks.") for name in state)):
        y = torch_layer(state, f"decoder_blocks.{i}", width, decoder_heads)(y)
    y = nn.functional.layer_norm(y, (width,), state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-5)
    y = nn.functional.linear(y[:, 1:], state["decoder_pred.weight"], state["decoder_pred.bias"])
    return y.reshape(len(x), -1, channels).transpose(1, 2)
