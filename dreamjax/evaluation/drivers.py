"""Choose the evaluation of a system by one table, capability → driver. No driver knows a system by name.

The options of `dreamjax evaluate` that belong to a driver are the fields of its settings.
"""

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from dreamjax.errors import UserError
from dreamjax.evaluation import held_out, images, probing, reconstruction
from dreamjax.evaluation.score_table import ExampleSettings
from dreamjax.storage import locks, paths
from dreamjax.systems import base, opening, registry
from dreamjax.typing import JsonDict


class Result(Protocol):
    """Scores, as they are stored and printed."""

    def as_json(self) -> JsonDict: ...

    def text(self) -> str: ...


@dataclass(frozen=True)
class Driver:
    """An evaluation, the capability that it needs, and its settings."""

    name: str
    capability: type
    settings: type
    evaluate: Callable[[str, Any], Result]

    @property
    def options(self) -> set[str]:
        """Return the options of the command line that it takes."""
        return {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(self.settings)}


DRIVERS = (  # a system gets the first one that it has the capability for, unless one is named
    Driver("images", base.GeneratesFromTrials, images.ImageSettings, images.evaluate),
    Driver("reconstruction", base.Reconstructs, reconstruction.ReconstructionSettings, reconstruction.evaluate),
    Driver("retrieval", base.Retrieves, held_out.RetrievalSettings, held_out.score_retrieval),
    Driver("prediction", base.Predicts, ExampleSettings, held_out.score_prediction),
    Driver("probe", base.Embeds, probing.ProbeSettings, probing.evaluate),
)


def driver_of(workdir: str, name: str | None = None) -> Driver:
    """Return the driver for a run, by name or the first that suits. Raise UserError where there is none."""
    task = registry.build(opening.config_of(workdir))
    possible = [driver for driver in DRIVERS if driver.capability in base.capabilities(task)]
    for driver in possible:
        if name in (None, driver.name):
            return driver
    what = f"scored by {name}" if name else "scored"
    names = ", ".join(driver.name for driver in possible)
    can = f"it can be scored by {names}" if possible else base.what_it_can(task)
    raise UserError(f"{workdir}: a run of {base.name_of(task)} cannot be {what}; {can}")


def options_of(name: str, *, others: bool = False) -> list[str]:
    """Return the options that only this driver has; `others`: those that only others have."""
    mine = next(driver.options for driver in DRIVERS if driver.name == name)
    rest = {option for driver in DRIVERS if driver.name != name for option in driver.options}
    return sorted(rest - mine if others else mine - rest)


def evaluate(workdir: str, name: str | None = None, **options: Any) -> Result:
    """Evaluate a run by the driver `name` (default: the first that suits), with fields of its settings.

    Raise locks.Busy where another process writes to the same folder.
    """
    driver = driver_of(workdir, name)
    refuse_idle(driver, [f"--{option.replace('_', '-')}" for option in options], workdir)
    settings = driver.settings(**options)
    out = settings.out or f"{workdir}/evaluation"
    paths.refuse_unwritable_folder(out)
    with locks.output(out):
        return driver.evaluate(workdir, settings)


def refuse_idle(driver: Driver, given: Collection[str], workdir: str) -> None:
    """Raise UserError where an option of another driver was given."""
    if idle := [option for option in given if option in options_of(driver.name, others=True)]:
        owners = " or ".join(other.name for other in DRIVERS if idle[0] in other.options)
        raise UserError(
            f"{' and '.join(idle)} would do nothing: {workdir} is scored by {driver.name}, and {idle[0]} is an option "
            f"of {owners}; leave it out"
        )
