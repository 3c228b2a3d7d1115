"""Tiny networks of transformers with random weights, and ours with the same weights."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dreamjax.weights import networks
from tests import parity


def load(module: torch.nn.Module, folder: Path, **options: Any) -> Any:
    """Our network with the weights that `module` writes; checks that they come back bit by bit, and that transformers
    reads them back.
    """
    config, tensors = parity.saved(module, folder)
    network = networks.of(config, "config.json")
    arguments = network.arguments(config, "config.json")
    params = network.table.to_dreamjax(tensors, network.shapes(arguments))
    back = network.table.to_torch(params)
    parity.same_tensors(back, network.table.named(tensors))
    read_again(module, back, folder)
    return network.bind(arguments | options, jax.tree.map(jnp.asarray, params))


def read_again(module: torch.nn.Module, tensors: dict[str, np.ndarray], folder: Path) -> None:
    """transformers loads `tensors` into the class of `module` and has its very parameters."""
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    again, info = type(module).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    parity.same_tensors(state(again), state(module))


def state(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def count(shapes: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def count_torch(make: Any, config: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make(config).parameters())


def images(side: int | tuple[int, int], batch: int = 2, seed: int = 0) -> tuple[np.ndarray, torch.Tensor]:
    """The same images for both: (B, H, W, 3) and (B, 3, H, W)."""
    H, W = (side, side) if isinstance(side, int) else side
    pixels = np.random.default_rng(seed).normal(size=(batch, H, W, 3)).astype(np.float32)
    return pixels, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


# tiny programs that run once: quick compilation counts
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

LAYERS = (0, -2)  # hidden states that are also asked for alone


def outputs(model: Any, inputs: Any, *keys_ok: Any) -> dict[str, Any]:
    """Every output of our encoder, compiled at once."""

    @compiled
    def run(inputs: Any, *keys_ok: Any) -> dict[str, Any]:
        found = parity.layers(
            "hidden_states", [model.hidden_state(inputs, k, *keys_ok) for k in range(model.depth + 1)]
        )
        found |= {f"hidden_state({k})": model.hidden_state(inputs, k, *keys_ok) for k in LAYERS}
        encoded = model(inputs, *keys_ok)
        return found | {name: value for name, value in encoded._asdict().items() if value is not None}

    return in_order(run(jnp.asarray(inputs), *keys_ok))


def torch_outputs(module: torch.nn.Module, inputs: torch.Tensor, **options: Any) -> dict[str, Any]:
    """The same of transformers' encoder, under our names; `pooled` only where it gives that."""
    with torch.no_grad():
        out = module(inputs, output_hidden_states=True, **options)
    names = {"pooler_output": "pooled", "text_embeds": "projected", "image_embeds": "projected", "logits": "logits"}
    found = parity.layers("hidden_states", out.hidden_states)
    found |= {f"hidden_state({k})": out.hidden_states[k] for k in LAYERS}
    if "last_hidden_state" in out:
        found["last_hidden_state"] = out.last_hidden_state
    return found | {ours: out[name] for name, ours in names.items() if out.get(name) is not None}


def agree(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float = parity.TOLERANCE) -> float:
    """`parity.report`, without what transformers does not give: what it projects, before it did."""
    assert set(ours) - set(theirs) <= {"pooled", "last_hidden_state"}, set(ours) - set(theirs)
    return parity.report({name: ours[name] for name in theirs}, theirs, tolerance)


def in_order(found: dict[str, Any]) -> dict[str, Any]:
    """jit sorts the keys of a dict: from the input to the output again."""
    ends = ["last_hidden_state", "pooled", "projected", "logits"]
    return dict(sorted(found.items(), key=lambda item: ends.index(item[0]) if item[0] in ends else -1))
