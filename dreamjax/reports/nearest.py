"""Show trials with the images of the gallery that are nearest to them: by a fixed rule, never picked by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dreamjax.reports.pages import Section, png_address, render

BLOCKS, TRIALS = 15, 4  # of the trials sorted by rank; shown of a block
SIDE = 96  # pixels of an image on a page
RULE = (
    f"trials are sorted by the rank of the image that was seen, then by its similarity, and cut into {BLOCKS} blocks; "
    f"shown are the first {TRIALS} trials of the first, the middle and the last block"
)


@dataclass(frozen=True)
class NearestImages:
    """A trial: the image that was seen, its rank from 1, and the names of the nearest images, the nearest first."""

    label: str
    seen: str
    rank: float
    nearest: Sequence[str]


def by_rule(rank_n: Float[np.ndarray, "n"], similarity_n: Float[np.ndarray, "n"]) -> dict[str, Int[np.ndarray, "k"]]:
    """Return the trials that are shown: the best, middle and worst ones by `RULE`."""
    order = np.lexsort((np.arange(len(rank_n)), -np.asarray(similarity_n), rank_n))
    blocks = np.array_split(order, min(BLOCKS, len(order)))
    places = {"best trials": 0, "middle trials": len(blocks) // 2, "worst trials": len(blocks) - 1}
    return {name: blocks[at][:TRIALS] for name, at in places.items()}


def names(groups: Mapping[str, Sequence[NearestImages]]) -> list[str]:
    """Return the names of all images that are shown."""
    return sorted({name for trials in groups.values() for one in trials for name in (one.seen, *one.nearest)})


def section(
    title: str,
    groups: Mapping[str, Sequence[NearestImages]],
    png_of: Callable[[str], bytes | None],
    notes: Sequence[str] = (),
) -> Section:
    """Return the trials of each group in a row each; an image without a PNG is shown by its name."""
    pngs = {name: png_of(name) for name in names(groups)}
    address = {name: png_address(png) if png else "" for name, png in pngs.items()}
    html = render("reports/templates/nearest.html.j2", groups=groups, address=address, side=SIDE)
    return Section(title, html=html, notes=notes)
