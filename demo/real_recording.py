"""The part of the demo on real EEG, where the recordings are available: house or face, one person, four electrodes.

prepare → decode, leaving out one recording after another, compared with the encoder of the demo
"""

import os
from pathlib import Path
from typing import Any

# images follow each other every 0.6 s
TRIALS = ("--events", "file", "--tmin", "0", "--tmax", "0.6", "--samples", "154", "--low", "1", "--high", "30")


def run(demo: Any, recordings: Path | None) -> None:
    """Run the stage. `recordings`: muse-lsl's N170 sample, or None where it is not available."""
    if recordings is None:
        print("\n   house or face, on real EEG: not run, no recordings available; pass --n170 FOLDER", flush=True)
        return
    demo.stage("20 house or face", 45, lambda: decode(demo, recordings))
    demo.show("a class is decoded, not an image, so no image is generated from these trials")


def decode(demo: Any, recordings: Path) -> None:
    """Prepare and decode, and print the table."""
    from dreamjax.evaluation.class_decoding import DecodingResult

    repository = Path(__file__).resolve().parents[1]  # where commands are run
    demo.run(["prepare", os.path.relpath(recordings, repository), "--out", demo.path("n170"), *TRIALS])
    result = demo.run(["decode", demo.path("n170"), "--labels", "house", "face", "--encoder", demo.path("run")])
    print(DecodingResult(**result).text(), flush=True)
