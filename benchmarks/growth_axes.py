"""What `growth.py` measures: the kinds of work, each of one size that varies, and who does it."""

import functools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import common
import numpy as np
from common import Step


@dataclass(frozen=True)
class Work:
    """The work of one size. `operations`: floating-point ones of a step, where they are counted."""

    step: Step
    operations: float | None = None


Make = Callable[[int, Path], Work]  # size, folder for files → its work


@dataclass(frozen=True)
class Axis:
    """What varies, its sizes (and smaller ones for a test), and who does the work: ours first, then a peer."""

    what: str
    sizes: Sequence[int]
    smallest: Sequence[int]
    contestants: Mapping[str, Make]
    why: str = ""  # the exponent may exceed 1.1
    rounds: int | None = None  # at most, of work that takes seconds


# ------------------------------------------------------------------------------------------------------------ networks
@functools.cache
def our_step(config: Any) -> Work:
    import pretrain

    from dreamjax.systems import registry

    step, _ = pretrain.dreamjax_step(config)
    return Work(step, registry.build(config).flops() * config.train.batch_size)


def pretraining(vary: Callable[[Any, int], Any], batch: int = 16) -> dict[str, Make]:
    """Return our step and the PyTorch twin's, of the tiny masked autoencoder with what `vary` sets to a size."""
    import pretrain

    base = pretrain.comparable("tiny", batch, "float32", unroll=False)

    def ours(size: int, folder: Path) -> Work:
        return our_step(vary(base, size))

    def theirs(size: int, folder: Path) -> Work:
        return Work(pretrain.torch_step(vary(base, size), "cuda" if common.on_gpu() else "cpu", compiled=False))

    return {"dreamjax": ours, "torch eager": theirs}


def of_model(name: str) -> Callable[[Any, int], Any]:
    return lambda config, size: replace(config, model=replace(config.model, **{name: size}))


def sampling() -> dict[str, Make]:
    """Return DDIM with guidance in 4 steps from the small U-Net, and from its twin."""
    import diffusion_models as models
    import generate
    from gpu import unet_sampling

    steps = 4

    def sizes_of(batch: int) -> Any:
        return models.Sizes("shapes", models.parts_of("shapes"), 16, batch, "float32")

    def ours(size: int, folder: Path) -> Work:
        sizes = sizes_of(size)
        sampler = generate.our_sampler(sizes, steps, generate.our_params(sizes))
        return Work(sampler.run, 2 * steps * sizes.flops())

    def theirs(size: int, folder: Path) -> Work:
        sizes = sizes_of(size)
        model, device = models.theirs(sizes, compiled=False, twin=True)
        return Work(unet_sampling.torch_sampler(model.eval(), device, sizes, steps))

    return {"dreamjax": ours, "torch eager": theirs}


# ---------------------------------------------------------------------------------------------------------- recordings
CHANNELS, RATE = ("Fp1", "Fp2", "C3", "C4", "P3", "P4", "O1", "O2"), 256


def write_recording(path: Path, seconds: int, seed: int) -> None:
    """Write a random walk of 8 electrodes as an EDF file."""
    import edfio

    rng = np.random.default_rng(seed)
    signals = []
    for name in CHANNELS:
        drift = np.cumsum(rng.normal(size=seconds * RATE))
        slow = np.convolve(drift, np.full(RATE, 1 / RATE), "same")
        signals.append(edfio.EdfSignal(3 * (drift - slow), RATE, label=name, physical_dimension="uV"))
    edfio.Edf(signals).write(path)


def preparing(files_of: Callable[[int], Iterable[int]]) -> dict[str, Make]:
    """Return `dreamjax prepare` without children, and MNE's reading, filtering and resampling of the same files.

    `files_of`: size → the seconds of each recording.
    """

    def written(size: int, folder: Path) -> Path:
        study = folder / f"study-{size}"
        if not study.exists():
            study.mkdir()
            for i, seconds in enumerate(files_of(size)):
                write_recording(study / f"sub-{i:04d}_eeg.edf", seconds, i)
        return study

    def ours(size: int, folder: Path) -> Work:
        from dreamjax.signals.preparation import prepare

        study, out = written(size, folder), folder / "prepared"
        settings = prepare.WindowSettings(sfreq=128.0, samples=256)

        def step(count: int) -> None:
            for _ in range(count):
                prepare.prepare([study], out, settings, prepare.PrepareOptions(workers=0))
                shutil.rmtree(out)

        return Work(step)

    def theirs(size: int, folder: Path) -> Work:
        import mne

        study = written(size, folder)

        def step(count: int) -> None:
            for path in sorted(study.iterdir()) * count:
                raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
                raw.filter(0.5, 60.0, verbose="error").notch_filter(50.0, verbose="error")
                raw.resample(128.0, method="polyphase", verbose="error").set_eeg_reference(verbose="error")

        return Work(step)

    return {"dreamjax": ours, "MNE: read, filter, resample": theirs}


def copies_compared(size: int, folder: Path) -> Work:
    """Compare the sketches of as many recordings, which `prepare` does with all of a study."""
    from dreamjax.signals.preparation import copies

    def sketch(seed: int) -> list[tuple[int, int]]:
        noise = np.random.default_rng(seed).normal(size=(4, 6000))
        signal = np.cumsum(noise, axis=1)
        one = copies.Sketch()
        one.add((signal - np.roll(signal, 40, axis=1)).astype(np.float32), 100.0, 0.0)
        return one.as_json()

    sketches = [sketch(i) for i in range(size)]

    def step(count: int) -> None:
        for _ in range(count):
            copies.alike(sketches)

    return Work(step)


def neighbours(size: int, folder: Path) -> Work:
    """Look for the recordings of one folder of FIF files, and for the files that each of them names."""
    from dreamjax.signals.preparation import convert
    from dreamjax.signals.recordings import opening

    study = folder / f"neighbours-{size}"
    study.mkdir()
    for i in range(size):
        (study / f"{i:05d}_raw.fif").write_bytes(b"\0" * 256)

    def step(count: int) -> None:
        for i in range(count):
            (study / str(i)).touch()  # another state of the folder
            for source in opening.find_sources([str(study)]):
                convert.input_files(source)
            (study / str(i)).unlink()

    return Work(step)


# ------------------------------------------------------------------------------------------------------------- resuming
SHARD = 25  # windows


def write_dataset(folder: Path, windows: int) -> None:
    """Write a dataset of equal windows, in shards of `SHARD`, each of which is a recording."""
    from dreamjax.signals.datasets import records, shards
    from dreamjax.signals.recordings import montage

    names, xyz = montage.template("1020-19")
    rng = np.random.default_rng(0)
    about = {name: "x" for name in (*records.TEXTS, "licence") if name not in ("modality", "unit")}
    window = records.Window(
        **about,  # type: ignore[arg-type]
        signal=rng.normal(0, 20, (len(names), 64)),
        ch_names=names,
        xyz=np.asarray(xyz, np.float32),
        sfreq=256.0,
        montage_rank=18,
        start=0.0,
        valid=np.ones(64, bool),
        channel_ok=np.ones(len(names), bool),
        scale=20.0,
        flags=(),
    )
    record, written, count = records.encode(window), [], -(-windows // SHARD)
    for i in range(count):
        with shards.ShardWriter(folder / f"noise-train.array_record-{i:05d}-of-{count:05d}") as writer:
            for _ in range(SHARD):
                writer.write(record)
        written.append(writer.shard)
    inputs = [
        {
            "recording": f"{i:016x}",
            "subject": f"{i // 4:016x}",
            "split": "train",
            "sha256": f"{i:064x}",
            "windows": SHARD,
        }
        for i in range(count)
    ]
    records.finish(folder, "noise", {"train": written}, {"inputs": inputs, "labels": []})


class FirstBatch(BaseException):
    """The first batch of a resumed run is there."""


def resuming(size: int, folder: Path) -> Work:
    """Continue a run of one step; a step of this work ends when the first batch is on the devices."""
    from dreamjax.systems import masked_presets, opening
    from dreamjax.training.feeding import Feeder

    data = folder / f"windows-{size}"
    write_dataset(data, size)
    tiny = masked_presets.PRESETS["tiny"]
    config = replace(
        tiny,
        data=replace(tiny.data, path=(str(data),), samples=64, shift=False),
        model=replace(tiny.model, dim=16, depth=1, heads=2, decoder_dim=16, decoder_heads=2),
        train=replace(tiny.train, steps=1, batch_size=8, eval_every=0),
    )
    opening.train(config, folder / f"run-{size}")
    later = replace(config, train=replace(config.train, steps=2))
    read = Feeder.next_unless

    def stop(feeder: Feeder, asked: Callable[[], bool]) -> Any:
        read(feeder, asked)
        raise FirstBatch

    def step(count: int) -> None:
        for _ in range(count):
            with mock.patch.object(Feeder, "next_unless", stop):
                try:
                    opening.train(later, folder / f"run-{size}")
                except FirstBatch:
                    continue
                raise AssertionError("the run did not ask for a batch")

    return Work(step)


# --------------------------------------------------------------------------------------------------------- evaluations
@dataclass
class Parts:
    """The parts of a table of scores, each of which is an axis."""

    ready: dict[int, dict[str, Callable[[], Any]]] = field(default_factory=dict)

    def of(self, part: str) -> Make:
        import evaluation

        def make(size: int, folder: Path) -> Work:
            if size not in self.ready:
                self.ready[size] = evaluation.parts(size)
            return Work(lambda count: [self.ready[size][part]() for _ in range(count)] and None)

        return make


def retrieved(size: int, folder: Path) -> Work:
    """Rank the targets of as many trials, and give the share of first ranks with its interval over trials."""
    from dreamjax.metrics import bootstrap, retrieval

    query, bank = np.random.default_rng(0).normal(size=(2, size, 512)).astype(np.float32)

    def step(count: int) -> None:
        for _ in range(count):
            first = retrieval.ranks(query, bank, np.arange(size)).top(1)
            bootstrap.clustered(first, np.arange(size))

    return Work(step)


def swept(size: int, folder: Path) -> Work:
    """Summarise a sweep of as many finished runs: ranking, paired tests, statements."""
    from dreamjax.sweeps import summary
    from dreamjax.sweeps.run_folder import write_json

    place, people, rng = folder / f"sweep-{size}", [f"s{i}" for i in range(8)], np.random.default_rng(size)
    score = {"rank": "reconstruction", "split": "val"}
    names = [f"point-{i:05d}" for i in range(size)]
    (place / "points").mkdir(parents=True)
    write_json(place / "sweep.json", {"name": "sweep", "score": score, "compare": ["examples"]})
    write_json(place / "planned.json", {"points": names, "scaling": ""})
    for i, name in enumerate(names):
        share = 0.5 + 0.1 * rng.normal(size=len(people))
        errors = {"model": (2 * (1 - share)).tolist(), "zero": [2.0] * 8}
        masked = {"subjects": people, "variance": [2.0] * 8, "error": errors}
        leg = {"examples": 9, "windows": 4, "step": 9, "reconstruction": {"random": masked}, "own": {"explained": 0.9}}
        cost = {"seconds": 1.0, "scoring": 1.0, "programs": 1, "from_cache": 0, "flop": 1.0}
        (place / "points" / name).mkdir()
        about = {"name": name, "values": {"rate": str(i)}, "seed": 0, "config": {}, "flop_per_example": 1.0}
        write_json(place / "points" / name / "point.json", about)
        write_json(place / "points" / name / "score.json", {"legs": {"examples": leg}, "cost": cost})

    def step(count: int) -> None:
        for _ in range(count):
            summary.summarise(str(place))

    return Work(step)


# ---------------------------------------------------------------------------------------------------------------- axes
CACHE = "the operations are proportional, but the activations outgrow the processor's cache (not measured directly)"
PAIRS = "every image is compared with every other one, as these metrics are defined"


def axes() -> dict[str, Axis]:
    """Return the axes by name; a group of them by the first word of their names."""
    parts = Parts()
    by_batch = pretraining(lambda c, n: replace(c, train=replace(c.train, batch_size=n)))
    by_length = pretraining(lambda c, n: replace(c, data=replace(c.data, samples=n)), batch=4)
    trials, few = (100, 200, 400, 800), (8, 16, 32)
    return {
        "step-batch": Axis("pretraining step, windows a batch", (8, 16, 32, 64), (1, 2), by_batch),
        "step-depth": Axis("pretraining step, layers", (4, 8, 16, 32), (1, 2), pretraining(of_model("depth"))),
        "step-channels": Axis(
            *("pretraining step, channels", (16, 64, 256, 1024), (2, 4), pretraining(of_model("channels"))), why=CACHE
        ),
        "step-length": Axis(
            *("pretraining step, samples a window", (512, 1024, 2048, 4096), (64, 128), by_length),
            why="attention compares every patch with every other one and writes the probabilities: between 1 and 2",
        ),
        "prepare-length": Axis(
            *("prepare, minutes of one recording", (16, 32, 64, 128), (1, 2, 3)),
            preparing(lambda n: [60 * n]),
            why="a recording of more than 4 million values is filtered twice, for its scale and for its windows",
            rounds=3,
        ),
        "prepare-count": Axis(
            *("prepare, recordings of 30 s", (8, 16, 32, 64), (3, 4, 5)), preparing(lambda n: [30] * n), rounds=3
        ),
        "prepare-copies": Axis(
            *("search for copies, recordings", (400, 800, 1600, 3200), few, {"dreamjax": copies_compared}),
            why="patterns that recordings share by chance: pairs of them, up to 50 for each pattern (`COMMON`)",
            rounds=3,
        ),
        "prepare-files": Axis(
            *("search for files, FIF recordings of one folder", (250, 500, 1000, 2000), few, {"dreamjax": neighbours}),
            why="Python's instructions are proportional (a test counts them); the lists outgrow the processor's cache",
            rounds=3,
        ),
        "sampling-batch": Axis(*("sampling, images a batch", (1, 4, 16, 64), (1, 2), sampling()), why=CACHE),
        **{
            f"evaluation-{part}": Axis(
                *(f"evaluation, trials: {part}", trials, few, {"dreamjax": parts.of(part)}), why=why, rounds=2
            )
            for part, why in (
                ("columns", f"two-way identification: {PAIRS}"),
                ("intervals", ""),
                ("sets", f"KID: {PAIRS}; FID's singular values, of as many numbers as images up to 2,048"),
                ("confusions", ""),
            )
        },
        "evaluation-retrieval": Axis(
            *("evaluation, trials: retrieval", (1000, 2000, 4000, 8000), few, {"dreamjax": retrieved}),
            why="every trial is compared with every target, as retrieval is defined",
            rounds=3,
        ),
        "resume": Axis(
            *("resume to the first batch, windows", (2000, 8000, 32000, 128000), (200, 400, 600)),
            {"dreamjax": resuming},
        ),
        "sweep": Axis(*("summary of a sweep, runs", (64, 256, 1024), (4, 8, 16), {"dreamjax": swept}), rounds=3),
    }
