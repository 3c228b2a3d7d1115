"""Electrodes: where they sit, and the fixed montages ("templates") that a model may be trained on.

Positions are metres in MNE's head frame: x to the right ear point, y to the nose, z up. They come from the file where
it has them and from the 10-05 template (MNE's standard_1005, kept in the package) where only the name is known.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from dreamjax.errors import UserError, nearest
from dreamjax.signals.recordings.channel_names import (
    BIOSEMI32,
    BIOSEMI64,
    EARS,
    normalise_name,
    standard_name,
    standard_table,
)

__all__ = ["EARS", "TEMPLATES", "normalise_name", "plausible", "standard_positions", "template"]

_FRONT_TO_BACK = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2"  # the scalp sites of the 10-20 system
TEMPLATES: dict[str, tuple[str, ...]] = {
    "1020-19": tuple(_FRONT_TO_BACK.split()),
    "1010-32": tuple(BIOSEMI32.split()),  # the order of the BioSemi caps, as ActiveTwo files have it
    "1010-64": tuple(BIOSEMI64.split()),
}
HEAD_RADII = (0.03, 0.25)  # m; a position nearer or farther than this from the head's centre is not an electrode


def standard_positions(names: Sequence[str]) -> Float[np.ndarray, "channels 3"]:
    """Positions in metres of 10-05 names; NaN where a name is not one."""
    table = standard_table()
    unknown = (np.nan,) * 3
    return np.array([table.get(standard_name(name) or "", unknown) for name in names], float).reshape(-1, 3)


def template(name: str) -> tuple[tuple[str, ...], Float[np.ndarray, "channels 3"]]:
    """Names and positions (m) of a fixed montage.

    Raises:
      UserError: no such template.
    """
    if name not in TEMPLATES:
        guess = nearest(name, list(TEMPLATES))
        raise UserError(f"no montage template {name}; did you mean {guess or ', '.join(TEMPLATES)}?")
    names = TEMPLATES[name]
    return names, standard_positions(names)


def plausible(xyz: Float[np.ndarray, "channels 3"]) -> bool:
    """Whether the known positions could be electrodes on a head, in metres: distances, and not all in one plane."""
    known = xyz[np.isfinite(xyz).all(axis=1)]
    if len(known) == 0:
        return False
    radius = np.linalg.norm(known, axis=1)
    if not ((radius > HEAD_RADII[0]) & (radius < HEAD_RADII[1])).all():
        return False
    return len(known) < 8 or bool(np.linalg.svd(known - known.mean(0), compute_uv=False)[2] > 1e-3)
