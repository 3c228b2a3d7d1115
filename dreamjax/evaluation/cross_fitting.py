"""Pretraining that leaves subjects out, once per fold, so that a probe's encoder saw nobody whom it is probed on."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.metrics import probe
from dreamjax.runs import provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.records import Window
from dreamjax.systems import opening


@dataclass(frozen=True)
class Fold:
    """A trained run, and the subjects that it has not seen and is probed on."""

    run: opening.Run
    subjects: tuple[str, ...]


def train_folds(
    config: Any, labelled: str, subjects: Sequence[str], folds: int, workdir: str, steps: int | None = None
) -> list[Fold]:
    """`folds` pretrainings with `config`, each without a share of `subjects`; continued where `workdir` has them.

    The dataset `labelled` is written anew for each fold, the fold's subjects as its split test and everybody else,
    whatever their split was, as train; the other datasets of the config stay as they are.
    """
    found, everybody = [], provenance.dataset(labelled)
    for i, group in enumerate(probe.deal(subjects, folds)):
        folder = epath.Path(workdir) / f"fold-{i}"
        shards = str(folder / "shards")
        write_fold(labelled, shards, group)
        here = fold_config(config, labelled, shards, steps)
        probe.verify_fold(provenance.trained_on(here.data.path), everybody, group, f"fold {i}")
        log.info("fold %d of %d: pretraining without %d subjects in %s", i + 1, folds, len(group), folder / "run")
        opening.train(here, str(folder / "run"))
        found.append(Fold(opening.open_run(str(folder / "run")), group))
    return found


def open_folds(workdirs: Sequence[str], labelled: str, subjects: Sequence[str]) -> list[Fold]:
    """Runs that somebody else trained, each with the subjects that it did not see.

    Raises UserError where the runs leave some subject no encoder that never saw it, or that cannot be verified.
    """
    if len(set(workdirs)) < 2:
        raise UserError("--fold-runs takes the work directories of at least two runs that left out different subjects")
    opened = {workdir: opening.open_run(workdir) for workdir in workdirs}
    everybody = provenance.dataset(labelled)
    training = {
        workdir: probe.verifiable(provenance.trained_on(run.config.data.path, workdir), everybody, subjects, workdir)
        for workdir, run in opened.items()
    }
    dealt = probe.assign(training, everybody, subjects)
    return [Fold(opened[workdir], group) for workdir, group in dealt.items()]


def fold_config(config: Any, labelled: str, shards: str, steps: int | None) -> Any:
    """`config` on a fold's shards in place of `labelled`; not scored while it trains, as nobody is left for that."""
    data = config.data
    path = tuple(shards if p == labelled else p for p in data.path)
    if shards not in path:
        raise UserError(f"the run was not trained on {labelled}; give --probe-data one of {', '.join(data.path)}")
    changes = {"eval_every": 0, "image_every": 0} | ({} if steps is None else {"steps": steps})
    return dataclasses.replace(
        config, data=dataclasses.replace(data, path=path), train=dataclasses.replace(config.train, **changes)
    )


def write_fold(source: str, out: str, probed: Sequence[str]) -> None:
    """The windows of every split of `source`, those of `probed` as split test and the rest as train. Once.

    What dataset.json says of each recording goes along, its file's hash too, so that whoever sees the fold can compare.
    """
    dataset = records.load_dataset(source)
    mark = {"source": [dataset["name"], dataset["splits"], sorted(dataset["shards"])], "left_out": sorted(probed)}
    target = epath.Path(out)
    if (target / "dataset.json").exists():
        if json.loads((target / "dataset.json").read_text()).get("fold") == json.loads(json.dumps(mark)):
            return
        raise UserError(f"{out} holds the fold of other subjects or other shards; choose another --out")
    left_out = set(probed)

    def windows(of_probed: bool) -> Iterator[Window]:
        for split in dataset["splits"]:
            for window in records.read_windows(source, split):
                if (window.subject in left_out) == of_probed:
                    yield window

    target.mkdir(parents=True, exist_ok=True)
    splits = {
        split: records.write_split(target, dataset["name"], split, windows(split == "test"))
        for split in ("train", "test")
    }
    kept: dict[str, Any] = {
        key: dataset[key] for key in ("settings", "versions", "channels", "corpora") if key in dataset
    }
    inputs = dataset.get("inputs", [])
    if all("subject" in entry for entry in inputs):
        kept["inputs"] = [e | {"split": "test" if e["subject"] in left_out else "train"} for e in inputs]
    records.finish(target, dataset["name"], splits, kept | {"fold": mark})
