"""The demo's last part, where the recordings are at hand: house or face, of a real person with four electrodes.

prepare → decode, one recording after another left out, beside the demo's encoder
"""

import os
from pathlib import Path
from typing import Any

# the next image comes 0.6 s after the last
TRIALS = ("--events", "file", "--tmin", "0", "--tmax", "0.6", "--samples", "154", "--low", "1", "--high", "30")


def run(demo: Any, recordings: Path | None) -> None:
    """The stage; `recordings`: muse-lsl's N170 sample, or None where it is not at hand."""
    if recordings is None:
        print("\n   house or face, of real EEG: not run, for want of recordings; pass --n170 FOLDER", flush=True)
        return
    demo.stage("19 house or face", 45, lambda: decode(demo, recordings))
    demo.say("what is told is a class, not an image; so no image is made of these trials")


def decode(demo: Any, recordings: Path) -> None:
    """The verb's own table."""
    from dreamjax.cli import decode_verb

    repository = Path(__file__).resolve().parents[1]  # where commands are run
    demo.run(["prepare", os.path.relpath(recordings, repository), "--out", demo.path("n170"), *TRIALS])
    result = demo.run(["decode", demo.path("n170"), "--labels", "house", "face", "--encoder", demo.path("run")])
    print(decode_verb.render(result), flush=True)
