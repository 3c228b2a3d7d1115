"""What crosses chips as the layout of the parameters implies it, without a compiled program."""

from dataclasses import dataclass

import numpy as np

from dreamjax.parallel.mesh import AnyMesh
from dreamjax.pods.collectives import SLICES, Collective
from dreamjax.pods.topologies import Pod


def of_training(count: int, mesh: AnyMesh, pod: Pod) -> list[Collective]:
    """What data and fsdp make cross chips for `count` trained parameters: kernels gathered forward and backward,
    gradients summed in float32.

    That is what the compiled programs of pretraining hold, to 1 % (tests/pods).
    """
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    collectives = gathered(count, mesh, pod, 2)
    if fsdp > 1:
        collectives += Moved("reduce-scatter", "fsdp", 4.0 * count).among(_members(mesh)[0, :, 0], pod)
    if data > 1:
        collectives += Moved("all-reduce", "data", 4.0 * count / fsdp).among(_members(mesh)[:, 0, 0], pod)
    return collectives


def gathered(count: int, mesh: AnyMesh, pod: Pod, times: int) -> list[Collective]:
    """`count` parameters that fsdp keeps in pieces, gathered in bfloat16 so many times."""
    if mesh.shape["fsdp"] == 1:
        return []
    return Moved("all-gather", "fsdp", 2.0 * count, times, "bf16").among(_members(mesh)[0, :, 0], pod)


def _members(mesh: AnyMesh) -> np.ndarray:
    return np.arange(mesh.size).reshape(mesh.shape["data"], mesh.shape["fsdp"], -1)


@dataclass(frozen=True)
class Moved:
    """A collective that the layout implies, wherever its devices are."""

    kind: str
    axis: str
    payload: float
    times: int = 1
    type: str = "f32"

    def among(self, group: np.ndarray, pod: Pod) -> list[Collective]:
        """As it is carried out: where several of a node (or slice) take part, each sends its share alone through the
        network, and the rest goes over the links within.
        """
        home = group // (pod.devices // pod.slices)
        inside = group[home == home[0]]
        if len(inside) == len(group):
            return [self._over(self.kind, self.axis, group, self.payload)]
        collectives = [self._over(self.kind, SLICES, group[:: len(inside)], self.payload / len(inside))]
        if len(inside) > 1 and self.kind != "all-gather":
            collectives.append(self._over("reduce-scatter", self.axis, inside, self.payload))
        if len(inside) > 1 and self.kind != "reduce-scatter":
            collectives.append(self._over("all-gather", self.axis, inside, self.payload))
        return collectives

    def _over(self, kind: str, axis: str, group: np.ndarray, payload: float) -> Collective:
        named = "kernels" if self.times > 1 else "gradients"
        members = tuple(group.tolist())
        return Collective(kind, (axis,), len(group), payload, self.times, (self.type,), self.times > 1, members, named)
