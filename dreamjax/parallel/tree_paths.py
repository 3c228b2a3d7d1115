"""One name per leaf of a tree, `params/blocks/attn/qkv/kernel`: for sharding rules, checkpoints and error messages."""

from collections.abc import Mapping
from typing import Any

import jax

PyTree = Any
Leaf = Any  # an array, an abstract array or a sharding


def path_name(path: tuple) -> str:
    """Return `opt/1/mu` for `(GetAttrKey("opt"), SequenceKey(1), DictKey("mu"))`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: PyTree) -> dict[str, Leaf]:
    """Return name → leaf, in the tree's own order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nested(leaves: Mapping[str, Leaf]) -> dict[str, PyTree]:
    """Return a nested dict of plain string keys (what a checkpoint holds): the inverse of `named_leaves` on dicts."""
    root: dict[str, PyTree] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return root


def like(tree: PyTree, leaves: Mapping[str, Leaf]) -> PyTree:
    """Return a tree of the structure of `tree` whose leaves are looked up by name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], tree)
