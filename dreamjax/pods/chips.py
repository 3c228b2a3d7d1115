"""Accelerators that a run may be planned for: what a chip computes, holds and moves, as its maker publishes it.

Of TPUs: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; of GPUs: NVIDIA's data sheets of H100 SXM and H200 SXM
(dense bfloat16, which is half of what they advertise with sparsity). What a TPU program may take of the memory is what
the compiler refuses to go beyond. The network of v4 and tpu7x is assumed: no figure of it was found. The clocks of v4,
v5e and v5p are those at which their matrix units make up the published peak; of v6e and tpu7x, those at which the
compiler's estimate of a large matrix product and of streaming through memory is the same share of the published peaks
as on v5e (87 and 81 %).
"""

from dataclasses import dataclass

GB, GIB, TERA = 10**9, 2**30, 10**12


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator. Rates per second and chip, at their peak.

    `link`: bytes a chip receives along one axis of its torus, from both neighbours together; of GPUs, over NVLink.
    `network`: bytes it receives from other slices, or from other nodes.
    """

    name: str
    flops: float  # bfloat16
    usable: float  # bytes of memory that a program may take
    bandwidth: float  # bytes
    link: float
    axes: int  # of the torus: 2 or 3; 1 where every chip of a node is as near
    network: float
    node: int = 0  # GPUs of one
    cores: int = 1  # of which the frameworks see each as a device: memory and rates are shared out among them
    counts_cores: bool = False  # v5p-8 are 4 chips
    clock: float = 0.0  # Hz, in which the compiler's estimates are; 0: it makes none


def _tpu(name: str, tera: float, usable: float, gbps: float, ici: float, axes: int, **rest: object) -> Chip:
    """`usable`: GiB. `ici`: GB/s of a chip in both directions together, over all its 2 · axes links."""
    return Chip(
        name=name,
        flops=tera * TERA,
        usable=usable * GIB,
        bandwidth=gbps * GB,
        link=ici / 2 / axes * GB,
        axes=axes,
        **rest,  # type: ignore[arg-type]
    )


def _gpu(name: str, gigabytes: float, gbps: float) -> Chip:
    return Chip(
        name=name,
        flops=989.4 * TERA,
        usable=0.75 * gigabytes * GB,  # what JAX takes at its start, by default
        bandwidth=gbps * GB,
        link=450 * GB,  # NVLink 4: 900 GB/s both ways
        axes=1,
        network=50 * GB,  # one 400 Gb/s InfiniBand port a GPU
        node=8,
    )


GBIT = GB / 8
CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v4", 275, 30.75, 1200, 600, 3, network=50 * GBIT, counts_cores=True, clock=1.05e9),
        _tpu("v5e", 197, 15.75, 819, 400, 2, network=25 * GBIT, clock=1.5e9),
        _tpu("v5p", 459, 95.74, 2765, 1200, 3, network=50 * GBIT, counts_cores=True, clock=1.75e9),
        _tpu("v6e", 918, 31.25, 1638, 800, 2, network=100 * GBIT, clock=1.75e9),
        _tpu(
            "tpu7x",
            2307,
            189.5,
            7380,
            1200,
            3,
            network=100 * GBIT,
            cores=2,
            counts_cores=True,
            clock=2.3e9,
        ),
        _gpu("h100", 80, 3350),
        _gpu("h200", 141, 4800),
    )
}
