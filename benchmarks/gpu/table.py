"""The results as a table in Markdown."""

from typing import Any

from gpu.jobs import CEILING, DREAMJAX, SEEDS, TOGETHER, is_ours
from gpu.running import DONE, Results

HEAD = (
    *("job", "dreamjax, ms", "PyTorch, ms", "PyTorch's time / dreamjax", "TFLOP/s", "% of the ceiling"),
    *("peak, GiB", "predicted, GiB", "largest difference to CPU"),
)


def of(results: Results) -> str:
    """Return a line about the machine, and the table: of the PyTorch sides each job's fastest."""
    jobs = dict(results["jobs"])
    ceiling = jobs.pop(CEILING, {})
    rates = ceiling.get("tflop_per_s", {})
    rows = [HEAD, ["---"] * len(HEAD), *(_row(one, max(rates.values(), default=None)) for one in jobs.values())]
    where = [ceiling[name] for name in ("device", "versions") if name in ceiling]
    lines = [f"{where[0]}, " + ", ".join(f"{n} {v}" for n, v in where[1].items()) if where else "unknown machine"]
    if rates:
        product = ", ".join(f"{rate:.4g} TFLOP/s in {side}" for side, rate in rates.items())
        lines.append(f"A {ceiling['size']}³ product in bfloat16: {product}; the larger one is the ceiling")
    elif ceiling:
        lines.append(f"{ceiling['title']}: {ceiling['status']}")
    kernels = [_kernels(one) for one in jobs.values() if one.get("profile")]
    return "\n\n".join([*lines, "\n".join(f"| {' | '.join(row)} |" for row in rows), *kernels]) + "\n"


def _row(one: dict[str, Any], ceiling: float | None) -> list[str]:
    sides = one.get("contestants", {})
    ours, together = sides.get(DREAMJAX, {}), sides.get(TOGETHER, {})
    theirs = min(
        (dict(side, name=name) for name, side in sides.items() if not is_ours(name) and "ms_per_step" in side),
        key=lambda side: side["ms_per_step"],
        default={},
    )
    title = one["title"] + (f", batch {one['batch']}" if "batch" in one else "")
    ratio, rate = theirs.get(f"time / {DREAMJAX}"), ours.get("tflop_per_s")
    of_seeds = theirs.get(f"time / {TOGETHER}")
    return [
        title if one["status"] == DONE else f"{title}: {one['status']}",
        _with_range(ours.get("ms_per_step"), ours.get("ms_range"))
        + _seeds(together.get("ms_per_step"), together.get("ms_range")),
        _with_range(theirs.get("ms_per_step"), theirs.get("ms_range")) + (f", {theirs['name']}" if theirs else ""),
        (_with_range(ratio[0], ratio[1:]) if ratio else _apart(ours, theirs))
        + (_seeds(of_seeds[0], of_seeds[1:]) if of_seeds else ""),
        f"{rate:.4g}" if rate else "",
        f"{100 * rate / ceiling:.1f}" if rate and ceiling else "",
        _gib(ours.get("peak_mib")),
        _gib(ours.get("predicted_mib")),
        f"{max(one['check']['differences'].values()):.2g}" if "check" in one else "",
    ]


def _with_range(value: float | None, ends: list[float] | None) -> str:
    return "" if value is None else f"{value:.4g}" + (f" ({ends[0]:.4g}-{ends[1]:.4g})" if ends else "")


def _seeds(value: float | None, ends: list[float] | None) -> str:
    return "" if value is None else f"; {SEEDS} seeds as one: {_with_range(value, ends)}"


def _apart(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    both = "ms_per_step" in ours and "ms_per_step" in theirs
    return f"{theirs['ms_per_step'] / ours['ms_per_step']:.3g}, one after the other" if both else ""


def _gib(mib: float | None) -> str:
    return "" if mib is None else f"{mib / 1024:.3g}"


def _kernels(one: dict[str, Any]) -> str:
    lines = [
        f"Largest kernels of a step of {one['title']}:",
        "",
        "| kernel | times a step | ms | share |",
        "|---|---|---|---|",
    ]
    for kernel in one["profile"]:
        name = kernel["name"].replace("|", "\\|")[:100]
        lines.append(f"| `{name}` | {kernel['calls']:.4g} | {kernel['ms']:.4g} | {kernel['share']:.1%} |")
    return "\n".join(lines)
