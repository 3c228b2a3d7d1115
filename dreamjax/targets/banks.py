"""Banks: what a frozen network makes of every image or caption, computed once and kept, memory-mapped.

ROOT/moments-0123456789abcdef/    named by a hash of all that the values depend on
    values.npy    float32 [N, …], a row for each image or caption
    bank.json     what it was made from; written last
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.console import Bar, log, progress
from dreamjax.parallel import processes, sharding
from dreamjax.storage import atomic, manifest

FORMAT = 2  # of the files; a change makes every bank anew
VALUES, DESCRIBED = "values.npy", "bank.json"
BUILD_S = 24 * 3600.0  # for the first process to write a bank while the others wait


def open_array(
    root: epath.PathLike,
    kind: str,
    facts: Mapping[str, Any],
    count: int,
    rows: Callable[[], Iterator[np.ndarray]],
) -> np.ndarray:
    """The array of `count` rows that `facts` describe, made where it is not there yet.

    `kind`: "moments", "text", …, for the folder's name and the progress. `facts`: all that the values depend on, as
    JSON. `rows()` gives the rows, batch by batch; every process computes its share of each batch, the first one writes.
    """
    described = {"format": FORMAT, "kind": kind, "rows": count, **facts}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    folder = epath.Path(root) / f"{kind}-{digest}"
    if not processes.agree("bank", (folder / DESCRIBED).exists(), BUILD_S):
        log.info("%s of %d are computed once: %s", kind, count, folder)
        with progress(kind, count) as bar:
            if processes.is_first():
                with atomic.new_folder(folder, last=DESCRIBED) as target:
                    _write(target / VALUES, count, rows(), bar)
                    (target / DESCRIBED).write_text(json.dumps(described, indent=1))
            else:
                for batch in rows():
                    bar.advance(len(batch))
        processes.barrier("bank written", BUILD_S)
    return _mapped(folder / VALUES)


def default_root() -> str:
    """$XDG_CACHE_HOME/dreamjax/banks."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "dreamjax", "banks")


def hash_of(folder: epath.Path) -> str:
    """SHA-256 over the names and the bytes of a folder's files."""
    files = sorted(entry for entry in folder.iterdir() if not entry.is_dir())
    return hashlib.sha256("".join(f"{f.name}:{manifest.file_hash(f)}\n" for f in files).encode()).hexdigest()


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
    held = np.array(sharding.dealt(mesh, batch)[jax.process_index()])
    run = jax.jit(function, out_shardings=NamedSharding(mesh, P()))
    for first in range(0, count, batch):
        index = np.minimum(np.arange(first, first + batch), count - 1)
        own = index[held]
        with jax.set_mesh(mesh):
            found = run(params, sharding.to_devices(rows(own), mesh, batch))
        yield np.asarray(found)[: count - first]


def _write(path: epath.Path, count: int, batches: Iterator[np.ndarray], bar: Bar) -> None:
    out, at = None, 0
    for rows in batches:
        if out is None:
            out = np.lib.format.open_memmap(os.fspath(path), "w+", np.float32, (count, *rows.shape[1:]))
        out[at : at + len(rows)] = rows
        at += len(rows)
        bar.advance(len(rows))
    if out is not None:
        out.flush()


def _mapped(path: epath.Path) -> np.ndarray:
    """The array, read when it is asked for; of an object store, whole and now."""
    if "://" in str(path):
        with path.open("rb") as stream:
            return np.load(stream, allow_pickle=False)
    return np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
