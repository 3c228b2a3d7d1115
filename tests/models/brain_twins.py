"""Brain encoders against their PyTorch twins: the same weights and trials, evaluating and training."""

from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

from dreamjax.models.brain_layers import Statistic, Trials
from dreamjax.models.layers import Keys
from dreamjax.weights.networks import Network
from tests import parity


def count(network: Network, arguments: dict[str, Any]) -> dict[str, int]:
    """Parameters by the first name of their path (and the number after it), and in "total"; no running statistics."""
    shapes = nnx.state(nnx.eval_shape(lambda: network.build(**arguments, rngs=Keys(jax.random.key(0)))), nnx.Param)
    counts: dict[str, int] = {}
    for path, leaf in nnx.to_flat_state(shapes):
        if not isinstance(leaf, Statistic):
            name = "/".join(str(part) for part in path[: 1 + (len(path) > 1 and str(path[1]).isdecimal())])
            counts[name] = counts.get(name, 0) + int(np.prod(leaf.shape))
    return counts | {"total": sum(counts.values())}


def without_dropout(twin: torch.nn.Module) -> torch.nn.Module:
    for module in twin.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return twin


def agree(network: Network, arguments: dict[str, Any], twin: torch.nn.Module, inputs: Trials, *extra: Any) -> None:
    """Equal vectors evaluating, and training equal vectors, gradients and running statistics; `extra`: what the
    twin takes after the signal. Dropout must be off in both.
    """
    parity.randomise(without_dropout(twin))
    for name, buffer in twin.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    tensors = {n: x.numpy().copy() for n, x in twin.state_dict().items()}
    shapes = network.shapes(arguments)
    params = network.table.to_dreamjax(tensors, shapes)
    returned = network.table.to_torch(params)
    parity.same_tensors(returned, {n: x for n, x in tensors.items() if n in returned})
    assert all(n.endswith("num_batches_tracked") for n in tensors.keys() - returned.keys())
    words = [None if x is None else torch.tensor(np.array(x)) for x in extra]
    signal = torch.tensor(np.array(inputs.signal))
    with torch.no_grad():
        theirs = twin.eval()(signal, *words)
    ours = jax.jit(lambda params: network.bind(arguments, params)(inputs, None))(params)
    assert parity.difference(ours, theirs) < 1e-5

    weights = np.random.default_rng(1).standard_normal(theirs.shape).astype(np.float32)

    def forward(params: Any) -> Any:
        model = network.bind(arguments, params)
        y = model(inputs, jax.random.key(0))
        return (y * weights).sum(), (y, nnx.to_pure_dict(nnx.state(model, Statistic)))

    gradients, (ours, statistics) = jax.jit(jax.grad(forward, has_aux=True))(params)
    theirs = twin.train()(signal, *words)
    (theirs * torch.tensor(weights)).sum().backward()
    assert parity.difference(ours, theirs) < 1e-5
    of_ours = network.table.to_torch(gradients)
    least = 0.2 * max(float(np.abs(x).max()) for x in of_ours.values())  # a bias before a normalisation has none
    for name, parameter in twin.named_parameters():
        largest = max(float(np.abs(of_ours[name]).max()), least)
        theirs = 0.0 if parameter.grad is None else parameter.grad.numpy()
        np.testing.assert_allclose(of_ours[name], theirs, atol=1e-4 * largest, err_msg=name)
    updated = network.table.to_torch(_with(params, statistics))
    for name, buffer in twin.named_buffers():
        if "running" in name:
            assert parity.difference(updated[name], buffer) < 1e-5, name


def _with(params: Any, statistics: Any) -> Any:
    if not isinstance(statistics, dict):
        return statistics
    return {n: _with(x, statistics[n]) if n in statistics else x for n, x in params.items()}


def trials(channels: int, samples: int, count: int = 5, **fields: Any) -> Trials:
    signal = np.random.default_rng(0).standard_normal((count, channels, samples)).astype(np.float32)
    return Trials(signal, **fields)
