"""Banks: what frozen networks make of every picture and caption, computed once and kept, memory-mapped.

ROOT/0123456789abcdef/       named by a hash of all that the values depend on
    moments.npy   float32 [V, N, h, w, 2Z]   mean and log-variance of the latents, as seen and (V = 2) mirrored
    text.npy      float32 [M, S, D]          last hidden state of each caption; row 0 is that of the empty one
    bank.json     what it was made from; written last
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from dreamjax.console import log, progress
from dreamjax.parallel import processes, sharding
from dreamjax.storage import atomic, manifest
from dreamjax.targets.picture_folder import Captioned
from dreamjax.targets.pictures import PictureConfig, load_all, scaled
from dreamjax.targets.tokens import Tokenizer
from dreamjax.weights import parts
from dreamjax.weights.parts import Folders

FORMAT = 1  # of the files; a change makes every bank anew
TEXTS = 64  # captions at a time
BUILD_S = 24 * 3600.0  # for the first process to write a bank while the others wait


@dataclass(frozen=True)
class Bank:
    """`moments` and `text` are memory maps; `caption` says which row of `text` each picture has."""

    moments: Float[np.ndarray, "V N h w 2Z"]
    text: Float[np.ndarray, "M S D"]
    caption: np.ndarray


def open_bank(
    root: epath.PathLike, config: PictureConfig, entries: Sequence[Captioned], folders: Folders, mesh: Mesh, batch: int
) -> Bank:
    """The bank of `entries`, made on `mesh` where it is not there yet. Raises UserError naming a damaged picture."""
    captions = ["", *sorted({entry.caption for entry in entries} - {""})]
    facts = _facts(config, entries, captions, folders)
    folder = epath.Path(root) / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    there = processes.agree("bank", (folder / "bank.json").exists(), BUILD_S)
    if not there:
        _build(folder, facts, config, entries, captions, folders, mesh, batch)
        processes.barrier("bank written", BUILD_S)
    number = {caption: i for i, caption in enumerate(captions)}
    rows = np.array([number[entry.caption] for entry in entries], np.int32)
    return Bank(_mapped(folder / "moments.npy"), _mapped(folder / "text.npy"), rows)


def default_root() -> str:
    """$XDG_CACHE_HOME/dreamjax/banks."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "dreamjax", "banks")


def _facts(
    config: PictureConfig, entries: Sequence[Captioned], captions: Sequence[str], folders: Folders
) -> dict[str, Any]:
    """All that the values depend on. Pictures count by name, size and time; weights by their bytes."""
    stats = [(entry.name, entry.path.stat()) for entry in entries]
    return {
        "format": FORMAT,
        "pictures": [[name, stat.length, stat.mtime] for name, stat in stats],
        "captions": list(captions),
        "resolution": config.resolution,
        "resample": config.resample,
        "mirrored": config.flip > 0,
        "parts": {name: _hash(folders.path(name)) for name in ("vae", "text_encoder", "tokenizer")},
    }


def _hash(folder: epath.Path) -> str:
    files = sorted(entry for entry in folder.iterdir() if not entry.is_dir())
    return hashlib.sha256("".join(f"{f.name}:{manifest.file_hash(f)}\n" for f in files).encode()).hexdigest()


def _build(
    folder: epath.Path,
    facts: Mapping[str, Any],
    config: PictureConfig,
    entries: Sequence[Captioned],
    captions: Sequence[str],
    folders: Folders,
    mesh: Mesh,
    batch: int,
) -> None:
    """Every process computes its rows of each batch; the first one writes."""
    versions = 2 if config.flip > 0 else 1
    log.info(
        "latents of %d pictures and states of %d captions are computed once: %s", len(entries), len(captions), folder
    )
    with atomic.new_folder(folder, last="bank.json") if processes.is_first() else _nowhere() as target:
        with progress("captions", len(captions)) as bar:
            _write(target, "text.npy", len(captions), _texts(captions, folders, mesh), (), bar)
        with progress("pictures", versions * len(entries)) as bar:
            rows = _pictures(config, entries, folders, mesh, batch, versions)
            _write(target, "moments.npy", versions * len(entries), rows, (versions, len(entries)), bar)
        if target is not None:
            (target / "bank.json").write_text(json.dumps(facts, indent=1))


class _nowhere:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _write(
    folder: epath.Path | None, name: str, count: int, batches: Iterator[np.ndarray], shape: tuple[int, ...], bar: Any
) -> None:
    out, at = None, 0
    for rows in batches:
        if folder is not None:
            if out is None:
                whole = (*(shape or (count,)), *rows.shape[1:])
                out = np.lib.format.open_memmap(os.fspath(folder / name), "w+", np.float32, whole)
                flat = out.reshape(count, *rows.shape[1:])
            flat[at : at + len(rows)] = rows
        at += len(rows)
        bar.advance(len(rows))
    if out is not None:
        out.flush()


def _texts(captions: Sequence[str], folders: Folders, mesh: Mesh) -> Iterator[np.ndarray]:
    part, ids = parts.open_part(folders, "text_encoder", mesh), Tokenizer.open(folders.path("tokenizer"))(captions)

    def states(params: Any, batch: Mapping[str, Any]) -> jax.Array:
        return part.bound(params)(batch["ids"]).last_hidden_state.astype(jnp.float32)

    return mapped(states, part.params, lambda index: {"ids": ids[index]}, len(captions), TEXTS, mesh)


def _pictures(
    config: PictureConfig, entries: Sequence[Captioned], folders: Folders, mesh: Mesh, batch: int, versions: int
) -> Iterator[np.ndarray]:
    part = parts.open_part(folders, "vae", mesh)

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        found = load_all([entries[i % len(entries)].path for i in index], config.resolution, config.resample)
        mirrored = (index >= len(entries))[:, None, None, None]
        return {"picture": np.where(mirrored, found[:, :, ::-1], found)}

    def moments(params: Any, rows: Mapping[str, Any]) -> jax.Array:
        return jnp.concatenate(part.bound(params).moments(scaled(rows["picture"])), axis=-1)

    return mapped(moments, part.params, read, versions * len(entries), batch, mesh)


def mapped(
    function: Callable[[Any, Mapping[str, Any]], jax.Array],
    params: Any,
    rows: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    count: int,
    batch: int,
    mesh: Mesh,
) -> Iterator[np.ndarray]:
    """`function(params, rows)` of rows 0 … count - 1, batch by batch on the mesh; every process gets all.

    `rows(index)` is asked for this process's share alone. A short last batch is filled up, and the filling is dropped.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    batch = -(-min(batch, count) // shards) * shards
    process, number = sharding.process_rows(mesh, batch)
    share = batch // number
    run = jax.jit(function, out_shardings=NamedSharding(mesh, P()))
    for first in range(0, count, batch):
        index = np.minimum(np.arange(first, first + batch), count - 1)
        own = index[process * share : (process + 1) * share]
        with jax.set_mesh(mesh):
            found = run(params, sharding.to_devices(rows(own), mesh, batch))
        yield np.asarray(found)[: count - first]


def _mapped(path: epath.Path) -> np.ndarray:
    """The array, read when it is asked for; of an object store, whole and now."""
    if "://" in str(path):
        with path.open("rb") as stream:
            return np.load(stream, allow_pickle=False)
    return np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
