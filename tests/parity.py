"""Comparison with another implementation of the same network, layer by layer.

report({"hidden.0": …, "hidden.1": …, "pooled": …}, {…})   # from the input to the output
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-4  # largest difference over largest magnitude; float32 against float32 gives about 1e-6


def difference(ours: Any, theirs: Any) -> float:
    """max |ours - theirs| / max |theirs|; infinite where shapes differ or something is not finite."""
    a, b = _array(ours), _array(theirs)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


def report(ours: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float = TOLERANCE) -> float:
    """The largest difference of all outputs. Fails above `tolerance` with a line for each, in order, so that one sees
    at which layer it starts.
    """
    assert list(ours) == list(theirs), f"other outputs: {set(ours) ^ set(theirs) or 'in another order'}"
    found = {name: difference(ours[name], theirs[name]) for name in theirs}
    bad = [name for name, value in found.items() if not value <= tolerance]
    if bad:
        lines = [f"{bad[0]} is the first of {len(bad)} outputs that differ by more than {tolerance:g}:"]
        for name, value in found.items():
            shapes = _array(ours[name]).shape, _array(theirs[name]).shape
            told = f"{shapes[0]}" if shapes[0] == shapes[1] else f"{shapes[0]} instead of {shapes[1]}"
            lines.append(f"{'>' if name in bad else ' '} {name:<40} {value:.1e}  {told}")
        raise AssertionError("\n".join(lines))
    return max(found.values())


def layers(name: str, outputs: Sequence[Any]) -> dict[str, Any]:
    """{"name.0": first, …}."""
    return {f"{name}.{i}": output for i, output in enumerate(outputs)}


def randomise(module: Any, seed: int = 0) -> Any:
    """Every parameter of a torch module drawn anew, so that none is 0 or 1 or equal to another one."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            else:  # norms and layer scales
                parameter.copy_(1 + 0.3 * noise)
    return module.eval()


def saved(module: Any, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config.json, tensors) that `save_pretrained` of transformers or diffusers writes."""
    import json

    from safetensors.numpy import load_file

    module.save_pretrained(folder)
    (weights,) = folder.glob("*.safetensors")
    return json.loads((folder / "config.json").read_text()), load_file(weights)


def same_tensors(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    """Equal names, shapes, types and bits."""
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    for name, array in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (array.shape, array.dtype), name
        assert ours[name].tobytes() == array.tobytes(), name


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    return np.asarray(value, np.float64)
