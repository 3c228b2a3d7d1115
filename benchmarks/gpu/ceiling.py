"""The rate of a large matrix product in both frameworks: what a step can reach at most."""

import time
from collections.abc import Callable

import common

SIZE, SMOKE_SIZE, REPEATS = 8192, 128, 10


def measure(keep: Callable[..., None], *, smoke: bool) -> None:
    """Keep the machine's description and the rates."""
    from gpu import work

    work.device()
    keep(**common.machine())
    size, unit = SMOKE_SIZE if smoke else SIZE, 1e12
    keep(size=size, tflop_per_s={"dreamjax": round(common.matrix_product_rate("bfloat16", size) / unit, 4)})
    torch_rate = round(torch_product_rate(size) / unit, 4)
    keep(tflop_per_s={"dreamjax": round(common.matrix_product_rate("bfloat16", size) / unit, 4), "torch": torch_rate})


def torch_product_rate(size: int) -> float:
    """Return the FLOP/s of `size`³ products in bfloat16, the best of five."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(size, size, dtype=torch.bfloat16, device=device)

    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(REPEATS):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / REPEATS

    seconds()
    return 2 * size**3 / min(seconds() for _ in range(5))
