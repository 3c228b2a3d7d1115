"""The axes of a sweep: a key of the base config, or several keys that vary together, and their values.

In a config file an axis is one of these calls; they return plain dicts, which a ConfigDict holds.

    values("mask.ratio", 0.25, 0.5, 0.75)                       each of them
    spaced("optim.learning_rate", 1e-4, 1e-2, 5, log=True)      five from end to end
    between("optim.weight_decay", 0.01, 1.0, log=True)          drawn from a range (search random or tpe)
    rows("size", small={"model.dim": 96}, large={"model.dim": 192, "model.depth": 4})   several keys at once, by name
    values("mask.span", 8, 32, when={"mask.kind": "block"})     an axis only where another has such a value
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dreamjax.errors import UserError

TRIES = 50  # draws per combination at most, where listed values repeat
KeyValues = Mapping[str, object]  # dotted key of the base config → value
Combination = Mapping[str, object]  # axis → label of a listed axis, number of a sampled one


def values(key: str, *choices: object, when: KeyValues | None = None) -> dict[str, object]:
    return _entry(key, when, choices=[[_label(choice), {key: choice}] for choice in choices])


def spaced(
    key: str, first: float, last: float, count: int, *, log: bool = False, when: KeyValues | None = None
) -> dict[str, object]:
    if log and min(first, last) <= 0:
        raise UserError(f"axis {key} goes from {first:g} to {last:g}, but a logarithm needs positive ends")
    grid = np.geomspace(first, last, count) if log else np.linspace(first, last, count)
    return values(key, *(float(f"{x:.6g}") for x in grid), when=when)


def between(
    key: str, least: float, most: float, *, log: bool = False, whole: bool = False, when: KeyValues | None = None
) -> dict[str, object]:
    return _entry(key, when, between=[least, most], log=log, whole=whole)


def rows(name: str, /, when: KeyValues | None = None, **settings: KeyValues) -> dict[str, object]:
    return _entry(name, when, choices=[[label, dict(row)] for label, row in settings.items()])


def _entry(name: str, when: KeyValues | None, **rest: object) -> dict[str, object]:
    conditions = [[other, list(v) if isinstance(v, list | tuple) else [v]] for other, v in (when or {}).items()]
    return {"name": name, **rest, "when": conditions}


def _label(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return "+".join(map(_label, value)) if isinstance(value, list | tuple) else str(value)


@dataclass(frozen=True)
class Axis:
    """An axis. `choices`: label → keys, of a listed axis. `between`: the range of a sampled one, named by its key.

    `when`: the axis applies only where each of these other axes has one of these labels.
    """

    name: str
    choices: Mapping[str, KeyValues] = field(default_factory=dict)
    between: tuple[float, float] | None = None
    log: bool = False
    whole: bool = False
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """Return the keys of the base config that the axis sets."""
        return [self.name] if self.between else sorted({key for row in self.choices.values() for key in row})

    def setting(self, value: object) -> KeyValues:
        """Return the keys for `value`: a label of a listed axis, a number of a sampled one."""
        if not self.between:
            return self.choices[str(value)]
        number = float(value)  # type: ignore[arg-type]
        return {self.name: int(number) if self.whole else number}

    def applies(self, chosen: Combination) -> bool:
        return all(str(chosen.get(name)) in labels for name, labels in self.when.items())


def read(entries: Sequence[object], source: str) -> tuple[Axis, ...]:
    """Return the axes of a config file. Raise UserError for an empty, repeated or misnamed axis."""
    axes: dict[str, Axis] = {}
    for entry in entries:
        name = str(entry.get("name", "")) if isinstance(entry, Mapping) else ""
        if not isinstance(entry, Mapping) or not name or ("choices" in entry) == ("between" in entry):
            raise UserError(f"{source}: an axis is made by sweeps.axes: values, spaced, between or rows; not {entry!r}")
        when = {other: tuple(map(_label, labels)) for other, labels in entry.get("when", ())}
        for other, labels in when.items():
            if other not in axes:
                raise UserError(f"{source}: axis {name} depends on {other}, which is not an axis before it")
            known = axes[other].choices
            if known and (unknown := sorted(set(labels) - set(known))):
                allowed = ", ".join(known)
                raise UserError(f"{source}: axis {name} depends on {other}={unknown[0]}; its values are {allowed}")
        if name in axes:
            raise UserError(f"{source}: there are two axes {name}; put their values into one")
        if "between" in entry:
            log, whole = bool(entry["log"]), bool(entry["whole"])
            axes[name] = Axis(name, {}, _range(entry["between"], log, f"{source}: axis {name}"), log, whole, when)
            continue
        axes[name] = Axis(name, {str(label): dict(row) for label, row in entry["choices"]}, when=when)
        if not axes[name].choices:
            raise UserError(f"{source}: axis {name} is empty; give it at least one value")
        if len(axes[name].choices) < len(entry["choices"]):
            raise UserError(f"{source}: axis {name} has a value twice")
    return tuple(axes.values())


def _range(ends: Sequence[object], log: bool, where: str) -> tuple[float, float]:
    numbers = [x for x in ends if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) < 2:
        raise UserError(f"{where} goes from {ends[0]!r} to {ends[1]!r}, but its ends must be numbers")
    least, most = numbers
    if not (math.isfinite(least) and math.isfinite(most) and least < most and (least > 0 or not log)):
        positive = ", both positive" if log else ""
        raise UserError(f"{where} goes from {least:g} to {most:g}; give a smaller and a larger number{positive}")
    return least, most


# -------------------------------------------------------------------------------------------------------- combinations
def grid(axes: Sequence[Axis]) -> list[Combination]:
    """Return every combination, without axes that do not apply; the last axis varies fastest.

    Raise UserError where an axis is sampled and not listed.
    """
    _refuse_drawn(axes, "grid")
    return _different(axes, itertools.product(*(axis.choices for axis in axes)))


def listed(axes: Sequence[Axis]) -> list[Combination]:
    """Return as many combinations as each axis has values: the first values of all axes, the second ones, …

    Raise UserError where an axis is sampled and not listed, or has a different number of values.
    """
    _refuse_drawn(axes, "list")
    if len({len(axis.choices) for axis in axes}) > 1:
        counts = ", ".join(f"{axis.name} {len(axis.choices)}" for axis in axes)
        raise UserError(f"search list takes axes of as many values each; these have: {counts}")
    return _different(axes, zip(*(axis.choices for axis in axes), strict=True))


def random(axes: Sequence[Axis], count: int, seed: int) -> list[Combination]:
    """Return `count` different samples, each from its own stream: a longer sweep begins with the runs of a shorter one.

    Return fewer if the axes have no more combinations.
    """

    def draws() -> Iterator[tuple[object, ...]]:
        for number in range(TRIES * count):
            rng = np.random.default_rng([seed, number])
            yield tuple(draw(axis, rng) for axis in axes)

    return _different(axes, draws(), count)


def _refuse_drawn(axes: Sequence[Axis], search: str) -> None:
    if drawn := next((axis.name for axis in axes if axis.between), None):
        raise UserError(f"axis {drawn} is drawn from a range, which search {search} cannot: set search to random")


def _different(axes: Sequence[Axis], rows: Iterator[tuple[object, ...]], count: int | None = None) -> list[Combination]:
    """Return the first `count` different combinations (None: all), each without the axes that do not apply."""
    seen: dict[tuple[tuple[str, object], ...], Combination] = {}
    for row in rows:
        if len(seen) == count:
            break
        chosen: dict[str, object] = {}
        for axis, value in zip(axes, row, strict=True):
            if axis.applies(chosen):
                chosen[axis.name] = value
        seen.setdefault(tuple(chosen.items()), chosen)
    return list(seen.values())


def draw(axis: Axis, rng: np.random.Generator) -> str | float:
    """Return a value of the axis: uniform, or uniform in its logarithm."""
    if axis.between is None:
        return list(axis.choices)[int(rng.integers(len(axis.choices)))]
    least, most = axis.between
    if axis.whole:
        most += 1  # the largest one is as likely as the others
    x = math.exp(rng.uniform(math.log(least), math.log(most))) if axis.log else rng.uniform(least, most)
    return math.floor(x) if axis.whole else float(f"{x:.6g}")
