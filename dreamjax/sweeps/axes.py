"""What a sweep varies: a key of the base config, or several that belong together, and the values that it takes.

In a config file an axis is one of these calls; they return plain dicts, which a ConfigDict holds.

    values("mask.ratio", 0.25, 0.5, 0.75)                       each of them
    spaced("optim.learning_rate", 1e-4, 1e-2, 5, log=True)      five from end to end
    between("optim.weight_decay", 0.01, 1.0, log=True)          drawn (search random)
    rows("size", small={"model.dim": 96}, large={"model.dim": 192, "model.depth": 4})   several keys at once, by name
    values("mask.span", 8, 32, when={"mask.kind": "block"})     an axis only where another has such a value
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamjax.errors import UserError

TRIES = 50  # draws a point, at the most, where listed values repeat
Setting = Mapping[str, Any]  # dotted key of the base config → value


def values(key: str, *choices: Any, when: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"name": key, "choices": [[_label(one), {key: one}] for one in choices], "when": _conditions(when)}


def spaced(
    key: str, first: float, last: float, count: int, *, log: bool = False, when: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    if log and min(first, last) <= 0:
        raise UserError(f"axis {key} goes from {first:g} to {last:g}, of which there is no logarithm")
    grid = np.geomspace(first, last, count) if log else np.linspace(first, last, count)
    return values(key, *(float(f"{x:.6g}") for x in grid), when=when)


def between(
    key: str,
    least: float,
    most: float,
    *,
    log: bool = False,
    whole: bool = False,
    when: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {"name": key, "between": [least, most], "log": log, "whole": whole, "when": _conditions(when)}


def rows(name: str, /, when: Mapping[str, Any] | None = None, **settings: Setting) -> dict[str, Any]:
    return {"name": name, "choices": [[label, dict(row)] for label, row in settings.items()], "when": _conditions(when)}


def _conditions(when: Mapping[str, Any] | None) -> list[list[Any]]:
    return [[name, list(v) if isinstance(v, list | tuple) else [v]] for name, v in (when or {}).items()]


def _label(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return "+".join(map(_label, value)) if isinstance(value, list | tuple) else str(value)


@dataclass(frozen=True)
class Axis:
    """`choices`: label → setting, of a discrete axis. `between`: the range of a drawn one, whose name is its key.

    `when`: the axis is there only where each of these other axes has one of these labels.
    """

    name: str
    choices: Mapping[str, Setting] = field(default_factory=dict)
    between: tuple[float, float] | None = None
    log: bool = False
    whole: bool = False
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """Of the base config."""
        return [self.name] if self.between else sorted({key for row in self.choices.values() for key in row})

    def setting(self, value: Any) -> Setting:
        """`value`: a label of a discrete axis, a number of a drawn one."""
        return {self.name: int(value) if self.whole else float(value)} if self.between else self.choices[value]

    def applies(self, chosen: Mapping[str, Any]) -> bool:
        return all(str(chosen.get(name)) in labels for name, labels in self.when.items())


def read(entries: Sequence[Mapping[str, Any]], source: str) -> tuple[Axis, ...]:
    """The axes of a config file. Raises UserError for one that is empty, doubled or misnamed."""
    found: list[Axis] = []
    for entry in entries:
        name = str(entry.get("name", "")) if isinstance(entry, Mapping) else ""
        if not name or ("choices" in entry) == ("between" in entry):
            raise UserError(f"{source}: an axis is made by sweeps.axes: values, spaced, between or rows; not {entry!r}")
        when = {one: tuple(_label(v) for v in labels) for one, labels in entry.get("when", ())}
        for other, labels in when.items():
            before = next((axis for axis in found if axis.name == other), None)
            if before is None:
                raise UserError(f"{source}: axis {name} depends on {other}, which is no axis before it")
            if before.choices and (unknown := set(labels) - set(before.choices)):
                known = ", ".join(before.choices)
                raise UserError(
                    f"{source}: axis {name} depends on {other}={sorted(unknown)[0]}, which is none of {known}"
                )
        if any(axis.name == name for axis in found):
            raise UserError(f"{source}: there are two axes {name}; put their values into one")
        if "between" in entry:
            least, most = entry["between"]
            if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in (least, most)):
                raise UserError(f"{source}: axis {name} goes from {least!r} to {most!r}, but its ends are numbers")
            if not (math.isfinite(least) and math.isfinite(most) and least < most and (least > 0 or not entry["log"])):
                raise UserError(f"{source}: axis {name} goes from {least:g} to {most:g}, where nothing can be drawn")
            found.append(Axis(name, {}, (least, most), bool(entry["log"]), bool(entry["whole"]), when))
            continue
        choices = {str(label): dict(row) for label, row in entry["choices"]}
        if not choices:
            raise UserError(f"{source}: axis {name} is empty; give it at least one value")
        if len(choices) < len(entry["choices"]):
            raise UserError(f"{source}: axis {name} has a value twice")
        found.append(Axis(name, choices, when=when))
    return tuple(found)


def grid(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Every combination: axis → label, without axes that do not apply; the last axis varies fastest.

    Raises UserError where an axis is drawn and not listed.
    """
    if drawn := next((axis.name for axis in axes if axis.between), None):
        raise UserError(f"axis {drawn} is drawn from a range, which a grid cannot: set search to random")
    seen = set()
    for labels in itertools.product(*(axis.choices for axis in axes)):
        chosen: dict[str, Any] = {}
        for axis, label in zip(axes, labels, strict=True):
            if axis.applies(chosen):
                chosen[axis.name] = label
        if (key := tuple(chosen.items())) not in seen:
            seen.add(key)
            yield chosen


def random(axes: Sequence[Axis], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`count` different draws, each from its own stream: a longer sweep begins with the points of a shorter one.

    Fewer where the axes have no more.
    """
    seen: set[tuple] = set()
    for number in range(TRIES * count):
        if len(seen) == count:
            return
        rng = np.random.default_rng([seed, number])
        chosen: dict[str, Any] = {}
        for axis in axes:
            drawn = draw(axis, rng)
            if axis.applies(chosen):
                chosen[axis.name] = drawn
        if (key := tuple(chosen.items())) not in seen:
            seen.add(key)
            yield chosen


def draw(axis: Axis, rng: np.random.Generator) -> Any:
    """A value of the axis: uniform, or uniform in its logarithm."""
    if axis.between is None:
        return list(axis.choices)[int(rng.integers(len(axis.choices)))]
    least, most = axis.between
    if axis.whole:
        most += 1  # the largest one is as likely as the others
    x = math.exp(rng.uniform(math.log(least), math.log(most))) if axis.log else rng.uniform(least, most)
    return math.floor(x) if axis.whole else float(f"{x:.6g}")
