"""Cross-fitting: pretrain once per fold without its subjects, so that an encoder never saw those it is probed on."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from dreamjax.console import log
from dreamjax.errors import TryAgain, UserError
from dreamjax.metrics import probe
from dreamjax.parallel.environment import RESUME_HINT
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.copied import Copied
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.recordings import identity
from dreamjax.storage import presence
from dreamjax.systems import opening, registry
from dreamjax.systems.base import Embeds, Run, capability
from dreamjax.typing import JsonDict


@dataclass(frozen=True)
class Fold:
    """A trained run, and the subjects that it has not seen and is probed on."""

    run: Run
    subjects: tuple[str, ...]

    @property
    def task(self) -> Embeds:
        """Return the system of the run."""
        return capability(self.run.task, Embeds, "be probed")


def train_folds(
    config: Any, labelled: str, subjects: Sequence[str], folds: int, workdir: str, steps: int | None = None
) -> list[Fold]:
    """Pretrain with `config` once per fold, without a share of `subjects`; continue where `workdir` has the runs.

    The dataset `labelled` is rewritten for each fold, with the fold's subjects as split test and all others as train,
    whatever their split was, without copies of recordings; the other datasets of the config do not change.
    """
    trained, everyone = [], provenance.dataset(labelled)
    for i, group in enumerate(probe.split_subjects(subjects, folds)):
        folder = epath.Path(workdir) / f"fold-{i}"
        shards = str(folder / "shards")
        write_fold(labelled, shards, group)
        changed = fold_config(config, labelled, shards, steps)
        probe.verify_fold(provenance.trained_on(signal_of(changed).path), everyone, group, f"fold {i}")
        log.info("fold %d of %d: pretraining without %s in %s", i + 1, folds, identity.in_words(group), folder / "run")
        if opening.train(changed, str(folder / "run"))["preempted"]:
            raise TryAgain(f"stopped while fold {i + 1} of {folds} was pretrained; {RESUME_HINT}")
        trained.append(Fold(opening.open_run(str(folder / "run")), group))
    return trained


def open_folds(workdirs: Sequence[str], labelled: str, subjects: Sequence[str]) -> list[Fold]:
    """Open runs, each with the subjects that it did not see. Raise UserError where that cannot be verified."""
    if len(set(workdirs)) < 2:
        raise UserError("--fold-runs takes the work directories of at least two runs that left out different subjects")
    opened = {workdir: opening.open_run(workdir) for workdir in workdirs}
    everyone = provenance.dataset(labelled)
    training = {
        workdir: probe.verifiable(
            provenance.trained_on(signal_of(run.config).path, workdir), everyone, subjects, workdir
        )
        for workdir, run in opened.items()
    }
    assigned = probe.assign(training, everyone, subjects)
    return [Fold(opened[workdir], group) for workdir, group in assigned.items()]


def fold_config(config: Any, labelled: str, shards: str, steps: int | None) -> Any:
    """Return `config` on a fold's shards in place of `labelled`; not scored while it trains: no subjects are left."""
    data = signal_of(config)
    path = tuple(shards if os.path.abspath(p) == os.path.abspath(labelled) else p for p in data.path)
    if shards not in path:
        raise UserError(f"the run was not trained on {labelled}; give --probe-data one of {', '.join(data.path)}")
    changes = {"eval_every": 0, "image_every": 0} | ({} if steps is None else {"steps": steps})
    return dataclasses.replace(
        config, data=dataclasses.replace(data, path=path), train=dataclasses.replace(config.train, **changes)
    )


def signal_of(config: Any) -> DataConfig:
    """Return the data of a system. Raise UserError for one without embeddings."""
    return capability(registry.build(config), Embeds, "be probed, which takes embeddings").signal


def write_fold(source: str, out: str, probed: Sequence[str]) -> None:
    """Write the windows of every split of `source`, those of `probed` as split test and the rest as train; once.

    Copies of recordings are left out. The entries of dataset.json on each recording are kept, with the hashes of files,
    so that they can be compared.
    """
    dataset = records.load_dataset(source)
    mark = {"source": [dataset["name"], dataset["splits"], sorted(dataset["shards"])], "left_out": sorted(probed)}
    repeats = Copied.of([source])
    mark |= {"copies": sorted(repeats.recordings)} if repeats.recordings else {}
    target = epath.Path(out)
    if presence.exists(target / "dataset.json"):
        if records.load_dataset(target).get("fold") == json.loads(json.dumps(mark)):
            return
        raise UserError(f"{out} holds the fold of other subjects or other shards; choose another --out")
    left_out = set(probed)

    def side(subject: str, recording: str) -> str | None:
        if recording in repeats.recordings:
            return None
        return "test" if repeats.unit(subject, recording) in left_out else "train"

    target.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split in ("train", "test"):
        every = (window for name in dataset["splits"] for window in records.read_windows(source, name))
        chosen = (window for window in every if side(window.subject, window.recording) == split)
        splits[split] = records.write_split(target, dataset["name"], split, chosen)
    kept: JsonDict = {key: dataset[key] for key in ("settings", "versions", "channels", "corpora") if key in dataset}
    inputs = dataset.get("inputs", [])
    if all("subject" in entry for entry in inputs):
        sides = [side(entry["subject"], entry.get("recording", "")) for entry in inputs]
        kept["inputs"] = [entry | {"split": of} for entry, of in zip(inputs, sides, strict=True) if of]
    records.finish(target, dataset["name"], splits, kept | {"fold": mark})
