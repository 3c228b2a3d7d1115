"""A Task on a mesh: the shapes and places of its state, its compiled step, its state created where it will live."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.errors import UserError
from dreamjax.parallel import compiler, platform, sharding
from dreamjax.parallel.tree_paths import like, named_leaves
from dreamjax.training import checkpoints, guard
from dreamjax.training.guard import GuardConfig
from dreamjax.training.task import Batch, Metrics, State, Task, WeightSource, replace


@dataclass(frozen=True)
class Program:
    """What the loop runs. `step(state, batch)` consumes its state.

    `init(key)` leaves 0 what `task.weights()` are to be streamed over.
    """

    mesh: Mesh
    shapes: State  # of ShapeDtypeStruct, with shardings
    fresh: Callable[[jax.Array], State]  # traceable: the state before the first step
    init: Callable[[jax.Array], State]
    step: Callable[[State, Batch], tuple[State, Metrics]]


def build(task: Task, mesh: Mesh, rules: sharding.Rules = (), guarded: GuardConfig | None = None) -> Program:
    """Nothing is allocated here. Raises UserError when too much of the state would stay whole on an fsdp mesh.

    `guarded`: the state also keeps what `training.guard` tells a jump of the loss by.
    """
    rules = (*rules, *task.sharding_rules)

    def fresh(key: jax.Array) -> State:
        return replace(task.init(key), guard=guard.statistics(guarded or GuardConfig()))

    shapes = jax.eval_shape(lambda: fresh(jax.random.key(0)))  # the devices need not be here
    places = sharding.shardings(shapes, mesh, rules)
    sharding.check_sharded(shapes, places, mesh)
    whole = NamedSharding(mesh, P())

    return Program(
        mesh=mesh,
        fresh=fresh,
        shapes=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places),
        init=jax.jit(
            lambda key: undrawn(fresh(key), task.weights()),
            out_shardings=places,
            compiler_options=compiler.for_one_call(platform.target()),
        ),
        step=jax.jit(
            task.update,
            donate_argnums=0,
            in_shardings=(places, sharding.batch_sharding(mesh)),
            out_shardings=(places, whole),
            compiler_options=compiler.options(mesh.devices.flat[0].platform),
        ),
    )


def run_key(seed: int | jax.Array, purpose: bytes) -> jax.Array:
    """Return the key of a run's `init`."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose))


def restored(
    built: Program,
    task: Task,
    folder: epath.PathLike,
    step: int,
    key: jax.Array,
    fresh_hyper: bool = False,
) -> State:
    """The state of a saved step on the program's mesh; its frozen parts, which no checkpoint holds, from their sources.

    `fresh_hyper`: hyper-parameters as the config has them now. Raises UserError naming all that does not fit.
    """
    shapes, names = built.shapes, checkpoints.read_json(folder, step, "arrays")
    counted = any(name.startswith("guard/") for name in names)
    told = all(f"hyper/{name}" in names for name in named_leaves(shapes.hyper))  # an older version saved fewer
    left = {"guard": counted and bool(shapes.guard), "hyper": told and not fresh_hyper}
    groups = tuple(name for name in checkpoints.GROUPS if left.get(name, True))
    abstract = {name: tree for name, tree in checkpoints.to_dict(shapes).items() if name in groups}
    values = checkpoints.restore(folder, step, abstract, groups)
    anew = {"frozen": shapes.frozen, "guard": shapes.guard} | ({} if left["hyper"] else {"hyper": shapes.hyper})

    def init(key: jax.Array) -> dict[str, Any]:
        state = undrawn(built.fresh(key), task.weights())
        return {name: getattr(state, name) for name in anew}

    fresh = {}
    if jax.tree.leaves(anew):
        fresh = jax.jit(init, out_shardings=jax.tree.map(lambda x: x.sharding, anew))(key)
        if "guard" in values:
            fresh["guard"] = values["guard"] | {"spike": fresh["guard"]["spike"]}
    without: dict[str, Any] = {name: {} for name in anew}
    state = checkpoints.from_dict(replace(shapes, **without), values | without)
    state = replace(state, **(anew | fresh))
    sources = {prefix: source for prefix, source in task.weights().items() if prefix.split("/")[0] == "frozen"}
    return stream_in(state, sources)


def undrawn(state: State, sources: Iterable[str]) -> State:
    """`state`, within a program, with 0 under the prefixes `sources`: what is replaced anyway is not drawn first.

    For the U-Net of Stable Diffusion that spares a billion random numbers, and the program that draws them.
    """
    leaves = named_leaves(state)
    replaced = {name: jnp.zeros_like(leaf) for name, leaf in leaves.items() if _within(name, sources)}
    return like(state, leaves | replaced)


def _within(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + "/") for prefix in prefixes)


def stream_in(state: State, sources: Mapping[str, WeightSource]) -> State:
    """`state` with every leaf under a prefix (such as `frozen/vae`) replaced by what its source delivers."""
    leaves = named_leaves(state)
    for prefix, source in sources.items():
        own = {name: leaf for name, leaf in leaves.items() if _within(name, (prefix,))}
        if not own:
            raise UserError(f"weights for {prefix} were named, but the state has nothing there")
        part = _subtree(state, prefix)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), part)
        values = named_leaves(source(shapes))
        for name, leaf in own.items():
            value = values[name.removeprefix(prefix).lstrip("/")]
            leaves[name] = jax.device_put(value, leaf.sharding).astype(leaf.dtype)
    return like(state, leaves)


def _subtree(state: State, prefix: str) -> Any:
    node: Any = state
    for part in prefix.split("/"):
        if isinstance(node, (list, tuple)) and part.isdigit():
            node = node[int(part)]
        else:
            node = node[part] if isinstance(node, Mapping) else getattr(node, part)
    return node
