"""One readable table of names, PyTorch's beside ours, that converts weights in both directions.

    TABLE = Table(
        ("patch_embed.proj.weight",      "patch_embed/kernel",      CONV1D),  # (O, I, K) ⇄ (K, I, O)
        ("blocks.{i}.attn.qkv.weight",   "blocks/attn/qkv/kernel",  LINEAR),  # (out, in) ⇄ (in, out), stacked over i
        ("down.{i}.res.{j}.conv.weight", "down/{i}/conv/kernel",    CONV2D),  # i names a part, j is stacked
    )

An index that both names have is a part of both; one that only PyTorch's name has is a leading axis of our array.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamjax.errors import UserError
from dreamjax.parallel.names import nested

PyTree = Any


class WeightMismatch(UserError):
    """Weights that do not fit a model; the message names every missing, extra and misshapen tensor."""

    def __init__(self, source: str, missing: list[str], extra: list[str], misshapen: list[str]):
        self.missing, self.extra, self.misshapen = missing, extra, misshapen
        groups = (("missing", missing), ("not known", extra), ("of another shape", misshapen))
        parts = [f"{len(names)} {title} ({', '.join(names)})" for title, names in groups if names]
        super().__init__(f"{source}: the weights do not fit this model: {'; '.join(parts)}")


@dataclass(frozen=True)
class Transform:
    """A rearrangement of axes: `axes[k]` is the PyTorch axis that becomes our axis k. None leaves them."""

    axes: tuple[int, ...] | None = None

    def to_dreamjax(self, array: np.ndarray) -> np.ndarray:
        return array if self.axes is None else array.transpose(self.axes)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array if self.axes is None else array.transpose(np.argsort(self.axes))

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """PyTorch's shape of our `shape`."""
        return shape if self.axes is None else tuple(shape[k] for k in np.argsort(self.axes))


IDENTITY = Transform()
LINEAR = Transform((1, 0))  # (out, in) ⇄ (in, out)
CONV1D = Transform((2, 1, 0))  # (out, in, k) ⇄ (k, in, out)
CONV2D = Transform((2, 3, 1, 0))  # OIHW ⇄ HWIO


@dataclass(frozen=True)
class Row:
    torch: str
    path: str  # "/" between the levels of the parameter tree
    transform: Transform


@dataclass(frozen=True)
class Place:
    """Where one PyTorch tensor lies: `path` in the tree, at `index` of its leading axes."""

    path: str
    index: tuple[int, ...]
    transform: Transform
    shape: tuple[int, ...]  # PyTorch's


class Table:
    """Rows of (PyTorch name, our path, transform)."""

    def __init__(self, *rows: tuple[str, str, Transform]):
        self.rows = tuple(Row(*row) for row in rows)

    def places(self, like: Mapping[str, Any]) -> dict[str, Place]:
        """PyTorch name → place, for a tree (nested dicts) of arrays or shapes, in the order of the rows.

        Raises WeightMismatch where a leaf has no row.
        """
        leaves = flatten(like)
        found: dict[str, Place] = {}
        named: set[str] = set()
        for row in self.rows:
            pattern = re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(row.path)))
            for path, leaf in leaves.items():
                if match := pattern.fullmatch(path):
                    named.add(path)
                    found |= _places_of(row, path, match.groupdict(), tuple(leaf.shape))
        if without := sorted(set(leaves) - named):
            raise WeightMismatch("the name table", [], without, [])
        return found

    def to_dreamjax(self, tensors: Mapping[str, Any], like: Mapping[str, Any], source: str = "checkpoint") -> PyTree:
        """NumPy arrays in a tree like `like` (nested dicts of arrays or shapes), with the values of `tensors`.

        `tensors` holds anything with a `shape` that `np.asarray` reads; each is read once, so a lazy file is never held
        twice. Raises WeightMismatch naming, all at once, every missing, extra and misshapen tensor.
        """
        places = self.places(like)
        misshapen = [
            f"{name} is {tuple(tensors[name].shape)} instead of {place.shape}"
            for name, place in places.items()
            if name in tensors and tuple(tensors[name].shape) != place.shape
        ]
        missing = [name for name in places if name not in tensors]
        extra = [name for name in tensors if name not in places]
        if missing or extra or misshapen:
            raise WeightMismatch(source, missing, extra, misshapen)
        leaves = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in flatten(like).items()}
        for name, place in places.items():
            leaves[place.path][place.index] = place.transform.to_dreamjax(np.asarray(tensors[name]))
        return nested(leaves)

    def to_torch(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """PyTorch's tensors of a parameter tree, in the order of the rows: the inverse of `to_dreamjax`, bit by bit."""
        leaves = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
        return {
            name: np.ascontiguousarray(place.transform.to_torch(leaves[place.path][place.index])).reshape(place.shape)
            for name, place in self.places(params).items()
        }


def _places_of(row: Row, path: str, indices: Mapping[str, str], shape: tuple[int, ...]) -> dict[str, Place]:
    stacked = [name for name in re.findall(r"\{(\w)\}", row.torch) if name not in indices]
    inner = row.transform.torch_shape(shape[len(stacked) :])
    return {
        row.torch.format(**indices, **dict(zip(stacked, index, strict=True))): Place(path, index, row.transform, inner)
        for index in np.ndindex(*shape[: len(stacked)])
    }


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of "a/b/c" paths."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves
