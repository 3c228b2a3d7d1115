"""Measure the time of the table of scores, by part and by number of trials: every metric, without a trained network.

    taskset -c 0 python benchmarks/evaluation.py                  # 500, 1,000 and 2,000 trials of 32 × 32 images

Images are noise; judges are random projections of them, so that what is timed is ours and not a network's. Prints one
JSON object: CPU seconds of columns, of intervals, of sets (FID, KID, Inception Score) and of confusions, the parts'
growth from the second largest to the largest number, and the memory of the process at its peak.
"""

import argparse
import json
import math
import resource
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np

SAMPLES, CLASSES, SIDE, PEOPLE = 2, 1000, 32, 8
SOURCES = ("model", "another trial's", "random training image", "nearest training image")


def projections() -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a function: images → that many numbers, each a fixed random sum of all pixels."""
    weights = np.random.default_rng(0).standard_normal((SIDE * SIDE * 3, 2048), np.float32) / SIDE

    def of(images: np.ndarray, width: int) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32) / 255 @ weights[:, :width]

    return of


def judges() -> list[Any]:
    from dreamjax.evaluation.image_scores import Judge

    of = projections()

    def probabilities(images: np.ndarray) -> np.ndarray:
        logits = of(images, CLASSES)
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    def sets(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"2048": of(images, 2048), "64": of(images, 64), "probabilities": probabilities(images)}

    return [
        Judge("features", features=lambda x: of(x, 256), compares=("two-way", "distance", "cosine")),
        Judge("pairs", pair=lambda x, y: np.square(of(x, 64) - of(y, 64)).mean(1)),
        Judge("classifier", probabilities=probabilities),
        Judge("sets", sets=sets),
    ]


def parts(trials: int) -> dict[str, Callable[[], Any]]:
    """Return the parts of the table of that many trials, each of a different image; intervals are of the columns."""
    from dreamjax.evaluation import image_scores

    rng = np.random.default_rng(trials)
    true = rng.integers(0, 256, (trials, SIDE, SIDE, 3), np.uint8)
    of = image_scores.ScoredTrials(
        true, rng.integers(0, 40, trials), np.arange(trials), rng.integers(0, PEOPLE, trials)
    )
    made = {name: rng.integers(0, 256, (trials, SAMPLES, SIDE, SIDE, 3), np.uint8) for name in SOURCES}
    networks, columns = judges(), list[Any]()

    def scored() -> list[Any]:
        columns[:] = image_scores.columns(of, made, networks, 50)
        return columns

    return {
        "columns": scored,
        "intervals": lambda: [column.as_json(of.clusters, SOURCES[0]) for column in columns or scored()],
        "sets": lambda: image_scores.set_metrics(of, made, networks),
        "confusions": lambda: image_scores.confusions(networks[2], of, made),
    }


def timed(trials: int) -> dict[str, float]:
    """Return the CPU seconds of every part."""
    seconds = {}
    for name, function in parts(trials).items():
        started = time.process_time()
        function()
        seconds[name] = round(time.process_time() - started, 2)
    common.say(f"{trials} trials: {seconds}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[500, 1000, 2000])
    args = parser.parse_args()
    counts = sorted(args.trials)
    times = {n: timed(n) for n in counts}
    facts: dict[str, Any] = {"cores": common.CORES, "samples": SAMPLES, "sources": len(SOURCES), "cpu_s": times}
    if len(counts) > 1:
        fewer, most = counts[-2:]
        grown = math.log(most / fewer)
        facts["exponent"] = {
            part: round(math.log(seconds / times[fewer][part]) / grown, 2)
            for part, seconds in times[most].items()
            if seconds and times[fewer][part]
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(facts | {"peak_mib": round(peak)}, indent=1))


if __name__ == "__main__":
    main()
