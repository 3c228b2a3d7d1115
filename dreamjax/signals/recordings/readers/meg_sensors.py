"""Sensors of a magnetoencephalograph, from MNE's info: kinds, units, coil positions in the head, compensation.

MNE's channel types are "mag" (in T) and "grad" (in T/m), by the unit. The coil type says more: a CTF, KIT or 4D axial
gradiometer gives the difference of two fields in T and is a "mag" of MNE's.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

MEG = ("mag", "grad_axial", "grad_planar", "grad")  # kinds of sensor; grad: the coil type does not say which
PLANAR = frozenset({2, 3, 3011, 3012, 3013, 3014, 3015})  # Neuromag: FIFFV_COIL_NM_122, …_VV_PLANAR_T1, …
AXIAL = frozenset({4, 2001, 4002, 5001, 6001, 7001, 7501, 9001, 9101, 9102})  # MCG, generic, 4D, CTF, KIT, BabyMEG, …
MAGNETOMETER = frozenset({1000, 2000, 3021, 3022, 3023, 3024, 3025, 4001, 7002, 8001, 8002, 8101, 8201})
TESLA_PER_METRE, DEVICE = 201, 1  # FIFF_UNIT_T_M, FIFFV_COORD_DEVICE
FEMTO, FEMTO_PER_CM = 1e15, 1e13  # T → fT, T/m → fT/cm
COIL_BITS = 16  # of a coil type; those above them are the grade of the software gradient compensation
OUTER_TAG = re.compile(r"-\d{3,5}$")  # serial number of a CTF system: MLC11-2908
NEUROMAG = re.compile(r"MEG ?(\d{3,4})")


def kind_of(channel: Any, kind: str) -> str:
    """Return which of `MEG` a channel is, from its coil type; `kind`, MNE's channel type, for other channels."""
    if kind not in ("mag", "grad"):
        return kind
    coil = int(channel["coil_type"]) & ((1 << COIL_BITS) - 1)
    named = ((PLANAR, "grad_planar"), (AXIAL, "grad_axial"), (MAGNETOMETER, "mag"))
    return next((name for coils, name in named if coil in coils), kind)


def factor_of(channel: Any) -> float:
    """Return what a channel's SI values are multiplied by: into fT, or of a gradiometer in T/m into fT/cm."""
    return FEMTO_PER_CM if int(channel["unit"]) == TESLA_PER_METRE else FEMTO


def name_of(label: str) -> str:
    """Return a sensor's name without blanks and without a CTF system's number, so that names of two systems agree.

    >>> name_of("MLC11-2908"), name_of("MEG 0113"), name_of("A12")
    ('MLC11', 'MEG0113', 'A12')
    """
    plain = label.strip()
    if neuromag := NEUROMAG.fullmatch(plain):
        return f"MEG{neuromag[1]}"
    return OUTER_TAG.sub("", plain) if plain.startswith(("M", "B", "G", "P", "Q", "R")) else plain


def compensation_of(info: Any, types: Sequence[str]) -> int | None:
    """Return the grade of the gradient compensation in effect; None for a system that has none."""
    grades = {
        int(channel["coil_type"]) >> COIL_BITS for channel, kind in zip(info["chs"], types, strict=True) if kind in MEG
    }
    return max(grades) if grades and (info["comps"] or any(grades)) else None


def into_head(info: Any, xyz: Float[np.ndarray, "channels 3"], types: Sequence[str], notes: list[str]) -> None:
    """Move coil positions (m) from device to head coordinates in place; a note where no transform is known."""
    frames = [int(channel["coord_frame"]) for channel in info["chs"]]
    in_device = np.array([frame == DEVICE for frame in frames], bool) & np.isfinite(xyz).all(axis=1)
    if not (in_device & np.isin(types, MEG)).any():
        return
    transform = info["dev_head_t"]
    matrix = np.eye(4) if transform is None else np.asarray(transform["trans"], float)
    if np.array_equal(matrix, np.eye(4)):  # what MNE's readers write for unknown
        notes.append("coil positions are in device coordinates: the recording does not say where the head was")
        return
    xyz[in_device] = xyz[in_device] @ matrix[:3, :3].T + matrix[:3, 3]
