"""The part of the demo on MEG: which image did a person see? Three systems in one table.

simulate trials of people who see drawn images → prepare → compare, with the demo's CLIP as what images are described by
"""

from typing import Any

WINDOW = ("--set", "data.tmin=0", "--set", "train.batch_size=64")  # from the image's onset on
SMALL = {  # of the published sizes, which take hours on two cores
    "brain_module.model.outputs": "32",
    "brain_module.model.dim": "32",
    "brain_module.model.depth": "1",
    "brain_module.optim.learning_rate": "3e-3",
    "nice.optim.learning_rate": "1e-3",
}


def run(demo: Any) -> None:
    """Run the stage."""
    demo.stage("19 which image, from MEG", 60, lambda: compare(demo))
    demo.show(f"responses follow features of the images; nearest images of trials: {demo.path('meg/comparison.html')}")


def compare(demo: Any) -> None:
    """Simulate, prepare and compare, and print the table."""
    from dreamjax.comparison.result import Comparison

    corpus, trials = demo.path("meg-recordings"), demo.path("meg-trials")
    people = ["--subjects", "4", "--channels", "32", "--sfreq", "240", "--strength", "3"]
    images = ["--classes", "60", "--images-per-class", "2", "--test-images", "20"]
    demo.run(["simulate", "--layout", "things-meg", "--out", corpus, *people, *images])
    demo.run(["prepare", corpus, "--out", trials])
    words = ["compare", "--systems", "ridge,nice,brain_module", "--data", trials, "--images", f"{corpus}/images"]
    words += ["--target", demo.path("clip/image_encoder"), "--people", "joint", "--seeds", "2", "--epochs", "12"]
    words += [*WINDOW, *(word for item in SMALL.items() for word in ("--set", "=".join(item)))]
    print(Comparison(**demo.run([*words, "--over-time", "--workdir", demo.path("meg")])).text(), flush=True)
