"""Open published weights lazily: the files of diffusers and transformers, and those of torch.save.

    tensors = open_weights("stable-diffusion/unet")  # or one file, or variant="fp16"
    tensors["conv_in.weight"].shape                  # from the header alone
    np.asarray(tensors["conv_in.weight"])            # reads this tensor, and nothing else

Nothing in a file is executed: `.bin`, `.ckpt`, `.pt` and `.pth` go through `storage.checkpoint_files.torch_files`.
"""

import mmap
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from etils import epath
from numpy.typing import DTypeLike

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.storage import paths, sniffing
from dreamjax.storage.checkpoint_files import safetensors_files, torch_files
from dreamjax.storage.checkpoint_files.safetensors_files import Tensor
from dreamjax.storage.checkpoint_files.torch_pickle import TorchTensor
from dreamjax.weights.table import Tensors

# (stem, ending) as the two libraries name weights; those that need no pickle reader first
NAMES = (
    ("diffusion_pytorch_model", "safetensors"),
    ("model", "safetensors"),
    ("diffusion_pytorch_model", "bin"),
    ("pytorch_model", "bin"),
)
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pth.tar")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which training programs save the state dict


@dataclass(frozen=True)
class WeightSet:
    """One set of weights in a folder: one file, or the index of several. `variant` is None for the plain ones."""

    name: str
    variant: str | None
    sharded: bool
    shards: str  # regex of the files that its index names

    def files(self, names: Iterable[str]) -> set[str]:
        """Return all of its files among `names`."""
        return {self.name, *(name for name in names if self.sharded and re.fullmatch(self.shards, name))}


def open_weights(folder_or_file: epath.PathLike, variant: str | None = None) -> Tensors:
    """Return name → tensor with `shape`, `dtype` and `np.asarray`, which reads it into new memory.

    A folder's plain weights are taken, or those of `variant` (such as "fp16"); where there is only one variant, it is
    taken with a warning. Raises UserError for a folder without weights, and for files that are missing, damaged, cut
    short or of another kind.
    """
    place = paths.reachable(folder_or_file)
    if not place.exists():
        raise UserError(f"{place}: no such file or folder")
    if not place.is_dir():
        return _file(place)
    chosen = choose_set([entry.name for entry in place.iterdir()], str(place), variant)
    if chosen.variant != variant:
        log.warning("%s has only weights of the variant %s, which are read", place, chosen.variant)
    return _sharded(place / chosen.name) if chosen.sharded else _file(place / chosen.name)


def choose_set(names: Iterable[str], source: str, variant: str | None = None) -> WeightSet:
    """Return the weights among a folder's file `names`.

    Raise UserError where there are none, or only several variants.
    """
    listed = list(names)
    available = weight_sets(listed)
    variants = sorted({match.variant for match in available if match.variant})
    for match in available:
        if match.variant == variant:
            return match
    if variant is None and len(variants) == 1:
        return next(match for match in available if match.variant)
    if variant is not None and available:
        others = [repr(name) for name in variants] + ["None, the plain ones"] * any(not m.variant for m in available)
        raise UserError(f"{source} has no weights of the variant {variant!r}; it has {' and '.join(others)}")
    if variants:
        raise UserError(f"{source} has only weights of the variants {' and '.join(variants)}; choose one of them")
    files = [name for name in sorted(listed) if name.endswith((".safetensors", *PICKLED))]
    wanted = " or ".join(f"{stem}.{ending}" for stem, ending in NAMES)
    also = f"; it has {', '.join(files[:5])}: name that file" if files else ""
    raise UserError(f"{source} has no weights ({wanted}){also}")


def weight_sets(names: Iterable[str]) -> list[WeightSet]:
    """Return every set of weights among a folder's file `names`, the preferred first."""
    listed = sorted(names)
    return [weights for stem, ending in NAMES for weights in _sets_of(listed, stem, ending)]


def _sets_of(names: list[str], stem: str, ending: str) -> list[WeightSet]:
    """Return the sets of one stem: STEM[.VARIANT].ENDING, and the index of STEM[.VARIANT]-00001-of-00002.ENDING ….

    Where both exist, each library's own order holds: diffusers asks for the index first, transformers last.
    """
    named = r"(?:\.(?P<variant>\w+))?"
    kinds = [
        (rf"{stem}{named}\.{ending}", False),
        (rf"{stem}\.{ending}\.index{named}\.json", True),
        (rf"{stem}{named}\.{ending}\.index\.json", True),  # a variant's, as huggingface_hub names it
    ]
    matches = []
    for pattern, sharded in sorted(kinds, key=lambda kind: kind[1] != stem.startswith("diffusion")):
        for match in filter(None, (re.fullmatch(pattern, name) for name in names)):
            variant = match["variant"]
            full = stem if variant is None else rf"{stem}\.{variant}"
            matches.append(WeightSet(match[0], variant, sharded, rf"{full}-\d+-of-\d+\.{ending}"))
    return matches


# ------------------------------------------------------------------------------------------------------- one file, many
def _file(path: epath.Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return dict(safetensors_files.read(path))
    if path.name.endswith(PICKLED):
        return _pickled(path)
    if path.name.endswith(".json"):
        return _sharded(path)
    raise UserError(f"{path}: weights are read from files in .safetensors and {', '.join(PICKLED)}, not {path.suffix}")


def _pickled(path: epath.Path) -> dict[str, Tensor]:
    state = torch_files.read(path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = torch_files.tensors(state, str(path))
    return {name: CopiedTensor(t) if isinstance(t, TorchTensor) else np.asarray(t) for name, t in tensors.items()}


@dataclass(frozen=True)
class CopiedTensor:
    """A tensor of a mapped file, which is copied when it is read, and whose pages are then released."""

    tensor: TorchTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape."""
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype:
        """Return the type."""
        return self.tensor.dtype

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        array = np.array(self.tensor.numpy(), dtype or self.dtype)
        storage = self.tensor.storage
        if hasattr(mmap, "MADV_DONTNEED") and storage.offset is not None:
            start = storage.offset - storage.offset % mmap.PAGESIZE
            end = storage.offset + storage.length * storage.dtype.itemsize
            if end > start:
                storage.file.madvise(mmap.MADV_DONTNEED, start, end - start)
        return array


def _sharded(index: epath.Path) -> dict[str, Tensor]:
    """Return the tensors that an index names, from the files next to it."""
    listed = sniffing.read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise UserError(f"{index}: this is not an index of weights: it has no weight_map of tensor and file names")
    shards = list(dict.fromkeys(listed.values()))
    if outside := [name for name in shards if not re.fullmatch(r"[\w-][\w.-]*", name)]:
        raise UserError(f"{index}: {outside[0]!r:.80} is not the name of a file next to it")
    if missing := [name for name in shards if not (index.parent / name).is_file()]:
        raise UserError(f"{index} names missing files ({', '.join(missing)}); fetch them too")
    opened = {name: _file(index.parent / name) for name in shards}
    if absent := [f"{name} in {shard}" for name, shard in listed.items() if name not in opened[shard]]:
        raise UserError(f"{index} names missing tensors ({', '.join(absent)}); fetch the files again")
    return {name: opened[shard][name] for name, shard in listed.items()}
