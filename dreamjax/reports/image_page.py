"""Images made from brain signals on one HTML page: what was seen, what was made, and never without the scores."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

import dreamjax
from dreamjax.storage import image_files

MOST = 48  # trials on a page
SIDE = 128  # pixels of an image there

SAID_PLAINLY = (
    "What this is for: signals of people who looked at images, one at a time, in a known experiment that they agreed "
    "to. What is read from them is a little about the image; the rest of what was made, and all of its detail, is "
    "the generator's idea of such an image. It reads no thoughts. It is not for clinical, forensic or covert use, and "
    "nobody's signals are to be used without their consent."
)
NOT_SCORED = "This checkpoint was not evaluated, so nothing is known about how right these images are: "


@dataclass(frozen=True)
class Row:
    """A trial: what was seen, where it is known, and what was made from it."""

    label: str
    seen: UInt8[np.ndarray, "H W 3"] | None
    made: Sequence[UInt8[np.ndarray, "H W 3"]]


def drawn(count: int, seed: int) -> list[int]:
    """Which of `count` trials a page shows: all, or `MOST` drawn at random with the seed; never picked."""
    if count <= MOST:
        return list(range(count))
    return sorted(np.random.default_rng([seed, 10]).choice(count, MOST, replace=False).tolist())


def of(shown: int, count: int) -> list[str]:
    """What the page says of which trials it shows."""
    if shown < count:
        return [f"{shown} of {count} trials, drawn at random"]
    return [f"all {count} trials" if count > 1 else "the only trial"]


def page(
    *,
    title: str,
    notes: Sequence[str],
    rows: Sequence[Row],
    tables: Sequence[tuple[str, list[str], list[list[str]]]] = (),
    warnings: Sequence[str] = (),
    about: Sequence[str] = (),
    command: str = "",
) -> str:
    """The page, with everything in it.

    `tables`: of the scores; where there are none, `command` would make them. `about`: what they are of, where that is
    not the trials shown.
    """
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader("dreamjax.reports", "."), autoescape=True)
    each = max([len(row.made) + (row.seen is not None) for row in rows], default=1)
    largest = max([max(row.made[0].shape[:2]) for row in rows], default=SIDE)
    return environment.get_template("images.html.j2").render(
        title=title,
        notes=notes,
        said_plainly=SAID_PLAINLY,
        warnings=[*warnings, *([] if tables else [f"{NOT_SCORED}{command}"])],
        tables=tables,
        about=about,
        shown=[_encoded(row) for row in rows],
        side=min(SIDE, max(largest, 96)),
        width=each * (min(SIDE, max(largest, 96)) + 6),
        pixelated=largest < SIDE,
        version=dreamjax.__version__,
    )


def _encoded(row: Row) -> Mapping[str, Any]:
    return {
        "label": row.label,
        "seen": _text(row.seen) if row.seen is not None else "",
        "made": [_text(image) for image in row.made],
    }


def _text(image: np.ndarray) -> str:
    return base64.b64encode(image_files.png_bytes(image, 2 * SIDE)).decode()
