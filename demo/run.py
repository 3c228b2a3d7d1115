"""Run every step of the package on simulated people, in minutes on two cores: `make demo`.

simulate → prepare → train (killed once, and resumed) → evaluate → export → load in PyTorch without JAX;
then draw → autoencoder → CLIP → U-Net → text to image (`images`);
then EEG to image: trials → align and fine-tune → table → gallery → export → images in PyTorch (`eeg_to_image`);
then MEG: which image was seen, by three systems under one protocol (`meg`);
then, where recordings of real people are available: house or face (`real_recording`);
at the end, a plan of a published training run for a pod (`pod`)

Every stage is a `dreamjax` command as a user types it; only the run is small: few subjects, a small network, few steps.
Everything is written to runs/demo, which the next demo empties.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = REPOSITORY.parent / "shared" / "data" / "eeg"  # real recordings next to the repository, where there are any
N170 = REAL / "muse" / "N170"
MARK = ".made-by-make-demo"  # only a folder with this file in it is ever removed
CONFIG = "configs/pretrain/tiny.py"
CLASSES, SAMPLES = 10, 208  # kinds of image; samples of a window, 0.8 s: the length of the response
PREPARED = (
    "--samples",
    str(SAMPLES),
    "--causal",
)  # causal: no filter spreads a response into the time before its image
SPLITS = ("--splits", "0.6", "0.15", "0.25")  # of the people


def alone(words: Sequence[str]) -> Any:
    """Start `dreamjax WORDS` as a new process."""
    return subprocess.Popen(
        [sys.executable, "-m", "dreamjax", *words], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )


@dataclass
class Demo:
    """Run stages one after another, and record the time of each."""

    work: Path
    start: Callable[[Sequence[str]], Any] = alone  # starts a command; returns something like a Popen
    spent: list[tuple[str, float, float]] = field(default_factory=list)  # heading, s, budget in s

    def path(self, name: str) -> str:
        """Return a path in the work folder, relative to the repository where the folder is inside it."""
        full = self.work / name
        return str(full.relative_to(REPOSITORY)) if full.is_relative_to(REPOSITORY) else str(full)

    def stage(self, heading: str, budget: float, work: Callable[[], Any]) -> Any:
        """Print the heading of a stage, run it and print its time."""
        print(f"\n\033[1m{heading}\033[0m" if sys.stdout.isatty() else f"\n== {heading}", flush=True)
        started = time.monotonic()
        result = work()
        took = time.monotonic() - started
        self.spent.append((heading, took, budget))
        over = "" if took <= budget else "  (over budget: the machine is slow or busy)"
        self.show(f"{heading}: {took:.0f} s of {budget:.0f} s{over}")
        return result

    def show(self, text: str) -> None:
        """Print a line about the stage."""
        print(f"   {text}", flush=True)

    def command(self, words: Sequence[str]) -> Any:
        """Start `dreamjax WORDS --json`; its log goes to the terminal."""
        self.show(f"$ dreamjax {shlex.join(words)}")
        return self.start([*words, "--json"])

    def run(self, words: Sequence[str]) -> dict[str, Any]:
        """Run a verb and return its JSON result. End the demo when it fails."""
        process = self.command(words)
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"demo: `dreamjax {words[0]}` ended with exit code {process.returncode}; see above")
        return json.loads(out)

    def python(self, *words: str) -> dict[str, Any]:
        """Run a script that compares PyTorch with JAX and return its JSON result. End the demo when they differ."""
        self.show(f"$ python {shlex.join(words)}")
        ended = subprocess.run([sys.executable, *words], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        if ended.returncode:
            raise SystemExit(f"demo: `python {words[0]}`: the results of PyTorch and JAX differ; see above")
        return json.loads(ended.stdout)


def empty(work: Path) -> None:
    """Make an empty work folder. A folder that the demo did not make is not touched."""
    if work.exists():
        if any(work.iterdir()) and not (work / MARK).exists():
            raise SystemExit(f"demo: {work} holds files that the demo did not make; remove it or pass --work FOLDER")
        shutil.rmtree(work)
    work.mkdir(parents=True)
    (work / MARK).touch()


def logged(workdir: Path) -> dict[int, str]:
    """Return step → the line of metrics.jsonl with its training losses."""
    log = workdir / "metrics.jsonl"
    lines = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:  # not yet complete
            continue
        if entry.get("split") == "train":
            lines[entry["step"]] = line
    return lines


def train(demo: Demo, steps: int, every: int) -> dict[str, Any]:
    """Train, kill the process after its first checkpoint, run the same command again, and compare the logs."""
    run = demo.work / "run"
    words = ["train", "--config", f"{CONFIG}:steps={steps}", "--workdir", demo.path("run")]
    words += [f"--config.data.path={demo.path('shards')}", f"--config.train.checkpoint.every={every}"]
    words += [f"--config.train.eval_every={every}", f"--config.data.samples={SAMPLES}", "--config.model.patch=8"]
    process = demo.command(words)
    saved = run / "checkpoints" / f"{every:08d}" / "manifest.json"
    while process.poll() is None and not (saved.exists() and max(logged(run), default=0) >= every + 20):
        time.sleep(0.2)
    if process.poll() is not None:
        process.communicate()
        raise SystemExit("demo: training ended before it could be killed; see above")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = logged(run)
    demo.show(f"killed (SIGKILL) after step {max(before)}; the same command again:")
    result = demo.run(words)
    again = [step for step in before if step > result["resumed_from"]]
    if any(logged(run)[step] != before[step] for step in again):
        raise SystemExit("demo: the resumed run logged other losses than the killed one")
    held_out = ", ".join(f"{name} {value:.3g}" for name, value in result["val"].items())
    demo.show(
        f"continued from step {result['resumed_from']}; the {len(again)} log lines that were computed twice are "
        f"equal byte by byte; held-out {held_out}"
    )
    return result


def use_in_torch(demo: Demo) -> dict[str, Any]:
    """Load the export in a process that cannot import JAX."""
    result = demo.python("demo/torch_encoder.py", demo.path("exported"))
    worst = max(result["differences"].values())
    demo.show(
        f"takes {result['takes']}; features {result['features']}, pooled {result['pooled']}; largest relative "
        f"difference to JAX {worst:.1e} (allowed {result['tolerance']:g}); JAX imported: {result['jax_imported']}"
    )
    return result


def evaluate(demo: Demo) -> dict[str, Any]:
    """Evaluate on people who were not in the training set, and print the table."""
    from dreamjax.evaluation import reconstruction_report
    from dreamjax.reports import pages

    result = demo.run(["evaluate", demo.path("run"), "--out", demo.path("evaluation")])
    print(pages.of_result(result, reconstruction_report.tables(result)).text(result["files"]), flush=True)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "demo", help="folder, emptied at the start")
    parser.add_argument("--subjects", type=int, default=8, help="people to simulate")
    parser.add_argument("--minutes", type=float, default=6.0, help="of EEG of each")
    parser.add_argument("--strength", type=float, default=10.0, help="of the evoked responses; 0: a null run")
    parser.add_argument("--steps", type=int, default=160, help="of pretraining")
    parser.add_argument("--images", type=int, default=3000, help="to draw")
    parser.add_argument("--image-steps", type=int, default=800, help="of the U-Net's training")
    parser.add_argument("--dream-steps", type=int, default=400, help="of aligning and fine-tuning")
    parser.add_argument("--trials", type=int, default=200, help="to score")
    parser.add_argument("--n170", type=Path, default=N170 if N170.is_dir() else None, help="muse-lsl's N170 sample")
    args = parser.parse_args(argv)
    if args.n170 and not args.n170.is_dir():  # before the work, not after ten minutes
        raise SystemExit(f"demo: {args.n170}: no such folder; --n170 takes that of muse-lsl's N170 recordings")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    empty(args.work)
    work = args.work.resolve()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(work / "compiled")  # empty at first, then shared by the verbs
    import eeg_to_image  # modules of this folder
    import forked
    import images
    import meg
    import pod
    import real_recording

    demo = Demo(work, forked.starter(REPOSITORY) or alone)
    people = ["--subjects", str(args.subjects), "--minutes", f"{args.minutes:g}", "--channels", "32"]
    seen = ["--classes", str(CLASSES), "--images-per-class", "60", "--strength", f"{args.strength:g}"]
    demo.stage("1 simulate", 30, lambda: demo.run(["simulate", "--out", demo.path("recordings"), *people, *seen]))
    prepare = ["prepare", demo.path("recordings"), "--out", demo.path("shards"), *PREPARED, *SPLITS]
    prepared = demo.stage("2 prepare", 60, lambda: demo.run(prepare))
    print(f"   {prepared['windows']} windows of {prepared['subjects']} people, {prepared['splits']}")
    demo.stage("3 train, killed once", 240, lambda: train(demo, args.steps, max(args.steps // 4, 10)))
    demo.stage("4 evaluate", 120, lambda: evaluate(demo))
    export = ["export", demo.path("run"), "--to", "torch", "--out", demo.path("exported")]
    demo.stage("5 export", 60, lambda: demo.run(export))
    demo.stage("6 use in PyTorch", 30, lambda: use_in_torch(demo))
    images.run(demo, CLASSES, args.images, args.image_steps)
    eeg_to_image.run(demo, CLASSES, [*PREPARED, *SPLITS], args.dream_steps, args.trials)
    meg.run(demo)
    real_recording.run(demo, args.n170)
    pod.run(demo)
    finish(demo)
    return 0


def finish(demo: Demo) -> None:
    """Print the table of times, and where the results are."""
    print(f"\n{'stage':24} {'took':>7} {'budget':>7}")
    for heading, took, budget in [*demo.spent, ("total", sum(t for _, t, _ in demo.spent), 600.0)]:
        print(f"{heading:24} {took:5.0f} s {budget:5.0f} s")
    print("\nresults:")
    for what, name in (
        ("the simulated recordings and their ground truth", "recordings/truth.json"),
        ("the quality of the recordings", "shards/report.html"),
        ("losses; `tensorboard --logdir` shows them", "run/metrics.jsonl"),
        ("a held-out window, hidden and reconstructed", "evaluation/reconstruction.png"),
        ("the tables of the evaluation", "evaluation/reconstruction-test.html"),
        ("the PyTorch model and its card", "exported/README.md"),
        ("images of the small latent diffusion model from prompts", "text_to_image/grid.png"),
        ("that model, for diffusers", "pipeline/README.md"),
        ("images from EEG next to the seen ones, and the table", "gallery/gallery.html"),
        ("that model, for diffusers and PyTorch", "dreamer/README.md"),
        ("which image was seen, from MEG: tables and nearest images", "meg/comparison.html"),
        ("the plan of the published training for a pod", "plan/memory.png"),
    ):
        print(f"  {demo.path(name):45} {what}")
    source = os.path.relpath(REAL, REPOSITORY) if REAL.is_dir() else "FOLDER"
    print(f"\nwith {'the real recordings next to the repository' if REAL.is_dir() else 'your own recordings'}:")
    print(f"  dreamjax prepare {source} --out runs/eeg")
    print("  dreamjax train --config configs/pretrain/small.py --workdir runs/small --config.data.path=runs/eeg")


if __name__ == "__main__":
    sys.exit(main())
