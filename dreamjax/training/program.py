"""A Task on a mesh: the shapes and shardings of its state, its compiled step, its state created with its sharding."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dreamjax.errors import UserError
from dreamjax.parallel import compiler, environment, sharding
from dreamjax.parallel.tree_paths import like, named_leaves
from dreamjax.training import checkpoints, guard
from dreamjax.training.guard import GuardConfig
from dreamjax.training.task import Batch, Metrics, PyTree, State, Task, WeightSource, replace


@dataclass(frozen=True)
class TrainingProgram:
    """The functions that the loop runs. `step(state, batch)` donates its state.

    `init(key)` leaves 0 in the parameters that `task.weights()` are streamed over.
    """

    mesh: Mesh
    shapes: State  # of ShapeDtypeStruct, with shardings
    fresh: Callable[[jax.Array], State]  # traceable: the state before the first step
    init: Callable[[jax.Array], State]
    step: Callable[[State, Batch], tuple[State, Metrics]]


def build(task: Task, mesh: Mesh, rules: sharding.Rules = (), guarded: GuardConfig | None = None) -> TrainingProgram:
    """Build the functions of a task without allocating anything.

    `guarded`: the state also keeps the statistics by which `training.guard` detects jumps of the loss. Raise UserError
    when too much of the state would stay unsharded on an fsdp mesh.
    """
    rules = (*rules, *task.sharding_rules)

    def fresh(key: jax.Array) -> State:
        return replace(task.init(key), guard=guard.statistics(guarded or GuardConfig()))

    shapes = jax.eval_shape(lambda: fresh(jax.random.key(0)))  # the devices need not be attached
    places = sharding.shardings(shapes, mesh, rules)
    sharding.check_sharded(shapes, places, mesh)
    whole = NamedSharding(mesh, P())

    return TrainingProgram(
        mesh=mesh,
        fresh=fresh,
        shapes=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places),
        init=jax.jit(
            lambda key: zero_streamed(fresh(key), task.weights()),
            out_shardings=places,
            compiler_options=compiler.for_one_call(environment.target_platform()),
        ),
        step=jax.jit(
            task.update,
            donate_argnums=0,
            in_shardings=(places, sharding.batch_sharding(mesh)),
            out_shardings=(places, whole),
            compiler_options=compiler.options(mesh.devices.flat[0].platform, mesh.shape["fsdp"]),
        ),
    )


def run_key(seed: int | jax.Array, purpose: bytes) -> jax.Array:
    """Return the key of a run's `init`."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose))


def restored(
    built: TrainingProgram, task: Task, folder: epath.PathLike, step: int, key: jax.Array, fresh_hyper: bool = False
) -> State:
    """Return the state of a saved step on the program's mesh; frozen parts, which no checkpoint holds, are streamed in.

    `fresh_hyper`: take the hyper-parameters of the current config. Raise UserError naming all that does not fit.
    """
    shapes, names = built.shapes, checkpoints.read_json(folder, step, "arrays")
    counted = any(name.startswith("guard/") for name in names)
    has_hyper = all(f"hyper/{name}" in names for name in named_leaves(shapes.hyper))  # an older version saved fewer
    optional = {"guard": counted and bool(shapes.guard), "hyper": has_hyper and not fresh_hyper}
    groups = tuple(name for name in checkpoints.GROUPS if optional.get(name, True))
    abstract = {name: tree for name, tree in checkpoints.to_dict(shapes).items() if name in groups}
    values = checkpoints.restore(folder, step, abstract, groups)
    created = {"frozen": shapes.frozen, "guard": shapes.guard} | ({} if optional["hyper"] else {"hyper": shapes.hyper})

    def init(key: jax.Array) -> dict[str, PyTree]:
        state = zero_streamed(built.fresh(key), task.weights())
        return {name: getattr(state, name) for name in created}

    fresh = {}
    if jax.tree.leaves(created):
        fresh = jax.jit(init, out_shardings=jax.tree.map(lambda x: x.sharding, created))(key)
        if "guard" in values:
            fresh["guard"] = values["guard"] | {"spike": fresh["guard"]["spike"]}
    without: dict[str, PyTree] = {name: {} for name in created}
    state = checkpoints.from_dict(replace(shapes, **without), values | without)
    state = replace(state, **(created | fresh))
    sources = {prefix: source for prefix, source in task.weights().items() if prefix.split("/")[0] == "frozen"}
    return stream_in(state, sources)


def zero_streamed(state: State, sources: Iterable[str]) -> State:
    """Return `state`, within a program, with 0 under the prefixes `sources`, whose values are streamed in later.

    For the U-Net of Stable Diffusion this avoids drawing a billion random numbers, and compiling that.
    """
    leaves = named_leaves(state)
    replaced = {name: jnp.zeros_like(leaf) for name, leaf in leaves.items() if _within(name, sources)}
    return like(state, leaves | replaced)


def _within(name: str, prefixes: Iterable[str]) -> bool:
    return any(f"{name}/".startswith(f"{prefix}/") for prefix in prefixes)


def stream_in(state: State, sources: Mapping[str, WeightSource]) -> State:
    """Return `state` with every leaf under a prefix (such as `frozen/vae`) replaced by what its source delivers."""
    leaves = named_leaves(state)
    for prefix, source in sources.items():
        targets = {name: leaf for name, leaf in leaves.items() if _within(name, (prefix,))}
        if not targets:
            raise UserError(f"the task has weights for {prefix}, but its state has no parameters there")
        part = _subtree(state, prefix)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), part)
        values = named_leaves(source(shapes))
        for name, leaf in targets.items():
            value = values[name.removeprefix(prefix).lstrip("/")]
            leaves[name] = jax.device_put(value, leaf.sharding).astype(leaf.dtype)
    return like(state, leaves)


def _subtree(state: State, prefix: str) -> PyTree:
    node: PyTree = state
    for part in prefix.split("/"):
        if isinstance(node, (list, tuple)) and part.isdigit():
            node = node[int(part)]
        else:
            node = node[part] if isinstance(node, Mapping) else getattr(node, part)
    return node
