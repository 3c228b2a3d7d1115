"""Images made from brain signals on one HTML page: what was seen, what was made, and never without the scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamjax.reports import templates
from dreamjax.reports.figures import Image
from dreamjax.reports.pages import Page, Section, png_address
from dreamjax.storage import image_files

MOST = 48  # trials on a page
LEAST_SIDE, SIDE = 96, 128  # pixels of an image there

PURPOSE = (
    "What this is for: signals of people who looked at images, one at a time, in a known experiment that they agreed "
    "to. What is read from them is a little about the image; the rest of what was made, and all of its detail, is "
    "the generator's idea of such an image. It reads no thoughts. It is not for clinical, forensic or covert use, and "
    "nobody's signals are to be used without their consent."
)
NOT_SCORED = "This checkpoint was not evaluated, so nothing is known about how right these images are: "


@dataclass(frozen=True)
class TrialImages:
    """A trial: what was seen, where it is known, and what was made from it."""

    label: str
    seen: Image | None
    made: Sequence[Image]


def choose(count: int, seed: int) -> list[int]:
    """Return which of `count` trials a page shows: all, or `MOST` drawn at random with the seed; never picked."""
    if count <= MOST:
        return list(range(count))
    return sorted(np.random.default_rng([seed, 10]).choice(count, MOST, replace=False).tolist())


def choice_note(shown: int, count: int) -> str:
    """Return the sentence about which trials a page shows."""
    if shown < count:
        return f"{shown} of {count} trials, drawn at random"
    return f"all {count} trials" if count > 1 else "the only trial"


def page(
    *,
    title: str,
    notes: Sequence[str],
    trials: Sequence[TrialImages],
    tables: Sequence[Section] = (),
    warnings: Sequence[str] = (),
    about: Sequence[str] = (),
    command: str = "",
) -> str:
    """Return the page, with everything in it.

    Args:
        tables: the scores; where there are none, `command` would make them.
        about: what the scores are of, where that is not the trials shown.
    """
    unscored = [] if tables else [f"{NOT_SCORED}{command}"]
    scores = [Section("The scores", notes=about), *tables] if about else tables
    gallery = [Section("Trials", html=_gallery(trials))] if trials else []
    return Page(title, [*scores, *gallery], notes, [PURPOSE, *warnings, *unscored]).html()


def _gallery(trials: Sequence[TrialImages]) -> str:
    largest = max(max(trial.made[0].shape[:2]) for trial in trials)
    side = min(SIDE, max(largest, LEAST_SIDE))
    shown = [
        {
            "label": trial.label,
            "seen": "" if trial.seen is None else _address(trial.seen),
            "made": [_address(image) for image in trial.made],
        }
        for trial in trials
    ]
    return templates.render("reports/templates/trials.html.j2", trials=shown, side=side, pixelated=largest < SIDE)


def _address(image: Image) -> str:
    return png_address(image_files.png_bytes(image, 2 * SIDE))
