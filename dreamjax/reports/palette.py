"""The colours of all figures and pages, by meaning.

Hues are those of Okabe and Ito (2008), which readers with any kind of colour vision can distinguish.
"""

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#7F7F7F", "#1D1D1F"

SERIES = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY, INK)  # lines of equal rank, in this order
MODEL, REFERENCE, SECOND = VERMILLION, BLUE, GREEN  # a model, the strongest baseline, the next one
WEAK, WEAKEST = "#8C8C8C", "#C4C4C4"  # baselines that a model has to beat
SIGNAL, QUIET, GRID, SHADE = INK, "#6B6B70", "#B0B0B0", "#ECEAE3"  # text next to a figure; lines of zero; hidden time
LIMIT = VERMILLION  # what must not be exceeded
SPLITS = {"train": BLUE, "val": SKY, "test": ORANGE}


def tint(colour: str, share: float = 0.5) -> str:
    """Return a colour mixed with this share of white."""
    levels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(level + (255 - level) * share):02X}" for level in levels)


def areas(count: int) -> list[str]:
    """Return colours for `count` filled areas: the series, then lighter ones, then from the first again."""
    colours = [*SERIES, *(tint(colour) for colour in SERIES)]
    return [colours[i % len(colours)] for i in range(count)]
