"""One readable table of names, PyTorch's beside ours, that converts weights in both directions.

    TABLE = Table(
        ("patch_embed.proj.weight",      "patch_embed/kernel",      KERNEL),  # (O, I, K) ⇄ (K, I, O)
        ("blocks.{i}.attn.qkv.weight",   "blocks/attn/qkv/kernel",  KERNEL),  # (out, in) ⇄ (in, out), stacked over i
        ("down.{i}.res.{j}.conv.weight", "down/{i}/conv/kernel",    KERNEL),  # i names a part, j is stacked
        ("layers.{i}.attn.q.weight",     "layers/qkv/kernel",       KERNEL, (0, 3)),  # first third of the last axis
    )

An index that both names have is a part of both; one that only PyTorch's name has is a leading axis of our array. A
capital letter stands for a name, which both have.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamjax.errors import UserError
from dreamjax.parallel.tree_paths import nested

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
    """A rearrangement of axes: `axes(rank)[k]` is the PyTorch axis that becomes our axis k."""

    axes: Callable[[int], tuple[int, ...]]

    def to_dreamjax(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(self.axes(array.ndim))

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(np.argsort(self.axes(array.ndim)))

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """PyTorch's shape of our `shape`."""
        return tuple(shape[k] for k in np.argsort(self.axes(len(shape))))


IDENTITY = Transform(lambda rank: tuple(range(rank)))
# (out, in) ⇄ (in, out) of a linear layer, (out, in, k) ⇄ (k, in, out) and OIHW ⇄ HWIO of convolutions
KERNEL = Transform(lambda rank: (*range(2, rank), 1, 0))


@dataclass(frozen=True)
class Row:
    torch: str
    path: str  # "/" between the levels of the parameter tree
    transform: Transform
    part: tuple[int, int] = (0, 1)  # (j, n): the tensor is part j of n equal ones side by side on our last axis


@dataclass(frozen=True)
class Place:
    """Where one PyTorch tensor lies: `path` in the tree, at `index` of that leaf."""

    path: str
    index: tuple[Any, ...]
    transform: Transform
    shape: tuple[int, ...]  # PyTorch's


class Table:
    """Rows of (PyTorch name, our path, transform[, part]).

    `aliases`: (regex, replacement) that turn an older or other library's spelling of a name into the table's, in order.
    `ignored`: regex of names that hold no weights (buffers that are computed anew).
    """

    def __init__(self, *rows: tuple, aliases: tuple[tuple[str, str], ...] = (), ignored: str | None = None):
        self.rows = tuple(Row(*row) for row in rows)
        self.aliases, self.ignored = aliases, ignored

    def places(self, like: Mapping[str, Any]) -> dict[str, Place]:
        """PyTorch name → place, for a tree (nested dicts) of arrays or shapes, in the order of the rows.

        Raises WeightMismatch where a leaf has no row.
        """
        leaves = flatten(like)
        found: dict[str, Place] = {}
        named: set[str] = set()
        for row in self.rows:
            pattern = re.compile(re.sub(r"\\{(\w)\\}", _index, re.escape(row.path)))
            for path, leaf in leaves.items():
                if match := pattern.fullmatch(path):
                    named.add(path)
                    found |= _places_of(row, path, match.groupdict(), tuple(leaf.shape))
        if without := sorted(set(leaves) - named):
            raise WeightMismatch("the name table", [], without, [])
        return found

    def named(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """`tensors` under the table's own names, without what holds no weights."""
        found = {}
        for name, tensor in tensors.items():
            for pattern, replacement in self.aliases:
                name = re.sub(pattern, replacement, name)
            if self.ignored is None or not re.fullmatch(self.ignored, name):
                found[name] = tensor
        return found

    def leaves(
        self,
        tensors: Mapping[str, Any],
        like: Mapping[str, Any],
        source: str = "checkpoint",
        whole: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """(path, array) of every leaf of `like`, one after another, each made when it is asked for.

        `whole`: the tree that `tensors` should fit, where `like` is a part of it.

        `tensors` holds anything with a `shape` that `np.asarray` reads; each is read once, so that a lazy file is never
        held twice. Raises WeightMismatch naming, all at once, every missing, extra and misshapen tensor, before the
        first is read.
        """
        tensors, places = self.named(tensors), self.places(like if whole is None else whole)
        missing, extra, misshapen = differences(places, tensors)
        if missing or extra or misshapen:
            raise WeightMismatch(source, missing, extra, list(misshapen.values()))
        within: dict[str, list[str]] = {}
        for name, place in places.items():
            within.setdefault(place.path, []).append(name)
        for path, leaf in flatten(like).items():
            array = np.empty(leaf.shape, leaf.dtype)
            for name in within[path]:
                place = places[name]
                # without a name of its own, which would hold this tensor while the next is read
                array[place.index] = place.transform.to_dreamjax(np.asarray(tensors[name]).reshape(place.shape))
            yield path, array

    def to_dreamjax(self, tensors: Mapping[str, Any], like: Mapping[str, Any], source: str = "checkpoint") -> PyTree:
        """NumPy arrays in a tree like `like` (nested dicts of arrays or shapes), with the values of `tensors`.

        Raises as `leaves`.
        """
        return nested(dict(self.leaves(tensors, like, source)))

    def to_torch(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """PyTorch's tensors of a parameter tree, in the order of the rows: the inverse of `to_dreamjax`, bit by bit."""
        leaves = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
        return {
            name: np.ascontiguousarray(place.transform.to_torch(leaves[place.path][place.index])).reshape(place.shape)
            for name, place in self.places(params).items()
        }


def differences(
    places: Mapping[str, Place], tensors: Mapping[str, Any], called: Callable[[str], str] = str
) -> tuple[list[str], list[str], dict[str, str]]:
    """(missing, extra, misshapen: name → what is wrong) of `tensors`. `called`: what a message calls a name."""
    misshapen = {
        name: f"{called(name)} is {tuple(tensors[name].shape)} instead of {place.shape}"
        for name, place in places.items()
        if name in tensors and not _same_numbers(place, tuple(tensors[name].shape))
    }
    missing = [called(name) for name in places if name not in tensors]
    return missing, [called(name) for name in tensors if name not in places], misshapen


def _same_numbers(place: Place, shape: tuple[int, ...]) -> bool:
    """Whether a stored shape is the wanted one; the 1 × 1 of a pointwise kernel may be missing or extra."""
    return shape == place.shape or (
        len(shape) > 1 and place.transform is KERNEL and _squeezed(shape) == _squeezed(place.shape)
    )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if all(n == 1 for n in shape[2:]) else shape


def _index(placeholder: re.Match) -> str:
    letter = placeholder[1]
    return f"(?P<{letter}>{'[^/]+' if letter.isupper() else '[0-9]+'})"


def _places_of(row: Row, path: str, indices: Mapping[str, str], shape: tuple[int, ...]) -> dict[str, Place]:
    stacked = [name for name in re.findall(r"\{(\w)\}", row.torch) if name not in indices]
    (j, parts), inner = row.part, shape[len(stacked) :]
    side: tuple[Any, ...] = ()
    if parts > 1:
        width = inner[-1] // parts
        inner, side = (*inner[:-1], width), (..., slice(j * width, (j + 1) * width))
    torch_shape = row.transform.torch_shape(inner)
    return {
        row.torch.format(**indices, **dict(zip(stacked, index, strict=True))): Place(
            path, (*index, *side), row.transform, torch_shape
        )
        for index in np.ndindex(*shape[: len(stacked)])
    }


Rows = tuple[tuple, ...]


def layer(torch: str, path: str) -> Rows:
    """The rows of a linear layer or a convolution: weight and bias, whichever of them the tree has."""
    return (f"{torch}.weight", f"{path}/kernel", KERNEL), (f"{torch}.bias", f"{path}/bias", IDENTITY)


def norm(torch: str, path: str) -> Rows:
    """The rows of a normalisation."""
    return (f"{torch}.weight", f"{path}/scale", IDENTITY), (f"{torch}.bias", f"{path}/bias", IDENTITY)


def batch_norm(torch: str, path: str) -> Rows:
    """The rows of a batch normalisation, its running statistics among them."""
    statistics = ((f"{torch}.running_{name}", f"{path}/{name}", IDENTITY) for name in ("mean", "var"))
    return *norm(torch, path), *statistics


def conv_norm(conv: str, bn: str, path: str) -> Rows:
    """The rows of `models.inference.ConvNorm`."""
    return *layer(conv, f"{path}/conv"), *batch_norm(bn, f"{path}/bn")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of "a/b/c" paths."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def keep(tree: Mapping[str, Any], pattern: str, but: bool = False) -> PyTree:
    """The part of a tree of nested dicts whose paths match a regex, or (`but`) the rest of it."""
    return nested({path: leaf for path, leaf in flatten(tree).items() if bool(re.fullmatch(pattern, path)) != but})
