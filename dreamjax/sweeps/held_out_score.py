"""The score of any system: a metric that the run itself reports of its held-out split after its last step.

Only for runs whose own metric is comparable: of the same data, and of a loss that no axis changes.
"""

import json

from etils import epath

from dreamjax.errors import UserError
from dreamjax.sweeps.run_score import RunScore, UnitScores
from dreamjax.sweeps.sweep_config import RunConfig, ScoreConfig


def measure(workdir: str, score: ScoreConfig, shared: epath.Path) -> RunScore:
    """Return the metric of the run's last evaluation; the lower ones are better where the config says so."""
    del shared
    lines = (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    records = [record for line in lines if (record := json.loads(line))["split"] == "val"]
    if not records:
        raise UserError(f"{workdir} was not evaluated while it was trained: set --config.base.train.eval_every")
    last = {name: value for name, value in records[-1].items() if name not in ("step", "split")}
    if not isinstance(value := last.get(score.metric), int | float):
        raise UserError(f"score.metric is {score.metric}, but {workdir} reports {', '.join(sorted(last))}")
    sign, name = (-1, f"minus {score.metric}") if score.better == "lower" else (1, score.metric)
    scores = UnitScores(f"{name}, as the run reports it of split val", "run", {"all": sign * float(value)})
    step = int(records[-1]["step"])
    config = json.loads((epath.Path(workdir) / "config.json").read_text())
    examples = step * config["train"]["batch_size"]
    return RunScore(step, examples, score.split, reported=last, details={"held_out": scores.as_json()})


def check(config: RunConfig, score: ScoreConfig) -> None:
    """Raise UserError where a run would not be evaluated while it is trained."""
    if not config.train.eval_every:
        raise UserError("score.rank=held_out takes the evaluation of training: set --config.base.train.eval_every")
    if score.split != "val":
        raise UserError(f"score.split is {score.split}, but training evaluates split val; set score.split=val")


def seen_alike(config: RunConfig) -> object:
    """Return the folders and the preparation of the data, as text."""
    return repr(getattr(config, "data", None))
