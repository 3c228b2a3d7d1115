"""Name tables, PyTorch's names next to ours, that convert weights in both directions.

    TABLE = Table(
        ("patch_embed.proj.weight",      "patch_embed/kernel",      KERNEL),  # (O, I, K) ⇄ (K, I, O)
        ("blocks.{i}.attn.qkv.weight",   "blocks/attn/qkv/kernel",  KERNEL),  # (out, in) ⇄ (in, out), stacked over i
        ("down.{i}.res.{j}.conv.weight", "down/{i}/conv/kernel",    KERNEL),  # i is in both names, j is stacked
        ("layers.{i}.attn.q.weight",     "layers/qkv/kernel",       KERNEL, (0, 3)),  # first third of the last axis
    )

An index in both names is a part of both; an index in PyTorch's name only is a leading axis of our array. A capital
letter stands for a name, which both have.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.parallel.tree_paths import PyTree, named_leaves, nested
from dreamjax.storage.checkpoint_files.safetensors_files import SafetensorsTensor, Tensor

Tensors = Mapping[str, Tensor]
BLOCK = 64  # rows of a tensor, read and transposed at once: both sides then stay in the cache
SMALL = 1 << 16  # numbers, up to which a tensor is one block


class WeightMismatch(UserError):
    """Weights that do not fit a model; the message names every missing, extra and misshapen tensor."""

    def __init__(self, source: str, missing: list[str], extra: list[str], misshapen: list[str]):
        self.missing, self.extra, self.misshapen = missing, extra, misshapen
        groups = (("missing", missing), ("unknown", extra), ("of another shape", misshapen))
        parts = [f"{len(names)} {title} ({', '.join(names)})" for title, names in groups if names]
        super().__init__(f"{source}: the weights do not fit this model: {'; '.join(parts)}")


@dataclass(frozen=True)
class Transform:
    """`axes(rank)[k]` is the PyTorch axis that becomes our axis k; PyTorch has `ones` axes of length 1 in front."""

    axes: Callable[[int], tuple[int, ...]]
    ones: int = 0

    def to_dreamjax(self, array: np.ndarray) -> np.ndarray:
        """Return our array of a tensor of PyTorch."""
        return array.reshape(array.shape[self.ones :]).transpose(self.axes(array.ndim - self.ones))

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Return the PyTorch tensor of our array."""
        return array.transpose(np.argsort(self.axes(array.ndim))).reshape(self.torch_shape(array.shape))

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return PyTorch's shape of our `shape`."""
        return (1,) * self.ones + tuple(shape[k] for k in np.argsort(self.axes(len(shape))))


IDENTITY = Transform(lambda rank: tuple(range(rank)))
# (out, in) ⇄ (in, out) of a linear layer, (out, in, k) ⇄ (k, in, out) and OIHW ⇄ HWIO of convolutions
KERNEL = Transform(lambda rank: (*range(2, rank), 1, 0))


@dataclass(frozen=True)
class NameRow:
    """One row of a table."""

    torch: str
    path: str  # "/" between the levels of the parameter tree
    transform: Transform
    part: tuple[int, int] = (0, 1)  # (j, n): the tensor is part j of n equal ones side by side on our last axis


@dataclass(frozen=True)
class TensorSlot:
    """Where one PyTorch tensor is stored: `path` in the tree, at `index` of that leaf."""

    path: str
    index: tuple[Any, ...]
    transform: Transform
    shape: tuple[int, ...]  # PyTorch's


class Table:
    """Rows of (PyTorch name, our path, transform[, part]).

    `aliases`: (regex, replacement) that turn the names of an older or another library into the table's, in order.
    `ignored`: regex of names that are not weights (buffers that are recomputed).
    """

    def __init__(self, *rows: tuple, aliases: tuple[tuple[str, str], ...] = (), ignored: str | None = None):
        self.rows = tuple(NameRow(*row) for row in rows)
        self.aliases, self.ignored = aliases, ignored

    def slots(self, like: PyTree) -> dict[str, TensorSlot]:
        """Return PyTorch name → slot, for a tree (nested dicts) of arrays or shapes, in the order of the rows.

        Raises WeightMismatch where a leaf has no row.
        """
        leaves = named_leaves(like)
        slots: dict[str, TensorSlot] = {}
        named: set[str] = set()
        for row in self.rows:
            digits = re.sub(r"\\{([a-z])\\}", r"(?P<\1>[0-9]+)", re.escape(row.path))
            pattern = re.compile(re.sub(r"\\{([A-Z])\\}", r"(?P<\1>[^/]+)", digits))
            for path, leaf in leaves.items():
                if match := pattern.fullmatch(path):
                    named.add(path)
                    slots |= _slots_of(row, path, match.groupdict(), tuple(leaf.shape))
        if without := sorted(set(leaves) - named):
            raise WeightMismatch("the name table", [], without, [])
        return slots

    def named(self, tensors: Tensors) -> dict[str, Tensor]:
        """Return `tensors` under the table's names, without ignored ones."""
        renamed = {}
        for name, tensor in tensors.items():
            for pattern, replacement in self.aliases:
                name = re.sub(pattern, replacement, name)
            if self.ignored is None or not re.fullmatch(self.ignored, name):
                renamed[name] = tensor
        return renamed

    def leaves(
        self,
        tensors: Tensors,
        like: PyTree,
        source: str = "checkpoint",
        whole: PyTree | None = None,
        empty: Callable[..., np.ndarray] = np.empty,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (path, array) of every leaf of `like`, one after another.

        `whole`: the tree that `tensors` should fit, where `like` is a part of it. `empty`: allocates an array. Each
        tensor is read once. Raises WeightMismatch, before the first is read, with every missing, extra and misshapen
        tensor.
        """
        tensors, slots = self.named(tensors), self.slots(like if whole is None else whole)
        missing, extra, misshapen = differences(slots, tensors)
        if missing or extra or misshapen:
            raise WeightMismatch(source, missing, extra, list(misshapen.values()))
        within: dict[str, list[str]] = {}
        for name, slot in slots.items():
            within.setdefault(slot.path, []).append(name)
        with ThreadPoolExecutor(environment.cores()) as threads:
            for path, leaf in named_leaves(like).items():
                array = empty(leaf.shape, leaf.dtype)
                for name in within[path]:
                    _copy(array, slots[name], tensors[name], threads)
                yield path, array

    def to_dreamjax(self, tensors: Tensors, like: PyTree, source: str = "checkpoint") -> PyTree:
        """Return NumPy arrays in a tree like `like` (nested dicts of arrays or shapes), with the values of `tensors`.

        Raises as `leaves`.
        """
        return nested(dict(self.leaves(tensors, like, source)))

    def to_torch(self, params: PyTree) -> dict[str, np.ndarray]:
        """Return PyTorch's tensors of a parameter tree, in the order of the rows; the inverse of `to_dreamjax`."""
        leaves = {path: np.asarray(leaf) for path, leaf in named_leaves(params).items()}
        return {
            name: np.ascontiguousarray(slot.transform.to_torch(leaves[slot.path][slot.index])).reshape(slot.shape)
            for name, slot in self.slots(params).items()
        }


def _copy(array: np.ndarray, slot: TensorSlot, tensor: Tensor, threads: ThreadPoolExecutor) -> None:
    """Store a tensor in its slot: transposed block by block, which takes less than half of the time of all at once."""
    shape, transform = slot.shape, slot.transform
    if math.prod(shape) <= SMALL or transform.ones or transform.axes(len(shape))[-1] != 0:
        array[slot.index] = transform.to_dreamjax(np.asarray(tensor).reshape(shape))
        return
    rows = tensor.rows if isinstance(tensor, SafetensorsTensor) else np.asarray(tensor).__getitem__
    target = array[slot.index]

    def block(start: int) -> None:
        part = rows(slice(start, start + BLOCK))
        target[..., start : start + BLOCK] = transform.to_dreamjax(part.reshape(-1, *shape[1:]))

    block(0)  # alone: where the file is in an object store, the first read fetches it
    list(threads.map(block, range(BLOCK, shape[0], BLOCK)))


def differences(
    slots: Mapping[str, TensorSlot], tensors: Tensors, called: Callable[[str], str] = str
) -> tuple[list[str], list[str], dict[str, str]]:
    """Return (missing, extra, misshapen: name → what is wrong) of `tensors`. `called`: what messages call a name."""
    misshapen = {
        name: f"{called(name)} is {tuple(tensors[name].shape)} instead of {slot.shape}"
        for name, slot in slots.items()
        if name in tensors and not _fits(slot, tuple(tensors[name].shape))
    }
    missing = [called(name) for name in slots if name not in tensors]
    return missing, [called(name) for name in tensors if name not in slots], misshapen


def _fits(slot: TensorSlot, shape: tuple[int, ...]) -> bool:
    """Return whether a stored shape fits; the 1 × 1 of a pointwise kernel may be missing or extra."""
    return shape == slot.shape or (
        len(shape) > 1 and slot.transform is KERNEL and _squeezed(shape) == _squeezed(slot.shape)
    )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if all(n == 1 for n in shape[2:]) else shape


def _slots_of(row: NameRow, path: str, indices: Mapping[str, str], shape: tuple[int, ...]) -> dict[str, TensorSlot]:
    stacked = [name for name in re.findall(r"\{(\w)\}", row.torch) if name not in indices]
    (j, parts), inner = row.part, shape[len(stacked) :]
    side: tuple[Any, ...] = ()
    if parts > 1:
        width = inner[-1] // parts
        inner, side = (*inner[:-1], width), (..., slice(j * width, (j + 1) * width))
    torch_shape = row.transform.torch_shape(inner)
    return {
        row.torch.format(**indices, **dict(zip(stacked, index, strict=True))): TensorSlot(
            path, (*index, *side), row.transform, torch_shape
        )
        for index in np.ndindex(*shape[: len(stacked)])
    }


NameRows = tuple[tuple, ...]


def layer(torch: str, path: str) -> NameRows:
    """Return the rows of a linear layer, a convolution or a normalisation: those that the tree has are used."""
    return (
        (f"{torch}.weight", f"{path}/kernel", KERNEL),
        (f"{torch}.weight", f"{path}/scale", IDENTITY),
        (f"{torch}.bias", f"{path}/bias", IDENTITY),
    )


def layers(torch: str, path: str, *names: str | tuple[str, str]) -> NameRows:
    """Return the rows of layers of a module: name, or (PyTorch's, ours), with dots in both."""
    rows: NameRows = ()
    for name in names:
        theirs, ours = (name, name) if isinstance(name, str) else name
        rows += layer(f"{torch}.{theirs}".lstrip("."), f"{path}/{ours.replace('.', '/')}".lstrip("/"))
    return rows


def fused(torch: Sequence[str], path: str) -> NameRows:
    """Return the rows of linear layers that lie side by side in one of ours, such as queries, keys and values."""
    rows: NameRows = ()
    for j, name in enumerate(torch):
        part = (j, len(torch))
        rows += ((f"{name}.weight", f"{path}/kernel", KERNEL, part), (f"{name}.bias", f"{path}/bias", IDENTITY, part))
    return rows


def batch_norm(torch: str, path: str) -> NameRows:
    """Return the rows of `models.brain_layers.BatchNorm`, the running statistics among them."""
    statistics = ((f"{torch}.running_{name}", f"{path}/{name}", IDENTITY) for name in ("mean", "var"))
    return *layer(torch, path), *statistics


def conv_norm(conv: str, bn: str, path: str) -> NameRows:
    """Return the rows of `models.image_classifiers.ConvNorm`."""
    return *layer(conv, f"{path}/conv"), *batch_norm(bn, f"{path}/bn")


def keep(tree: PyTree, pattern: str, but: bool = False) -> PyTree:
    """Return the part of a tree of nested dicts whose paths match a regex, or (`but`) the rest of it."""
    return nested({path: leaf for path, leaf in named_leaves(tree).items() if bool(re.fullmatch(pattern, path)) != but})
