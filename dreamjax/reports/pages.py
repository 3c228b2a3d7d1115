"""A result as people read it: one page with everything in it, and the same as text for a terminal."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etils import epath

from dreamjax import __version__
from dreamjax.reports import figures, templates
from dreamjax.reports.tables import Table
from dreamjax.storage import atomic
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Section:
    """A heading, what is below it, and notes below that; `half`: two of them fit beside each other."""

    title: str = ""
    table: Table | None = None
    png: bytes = b""
    alt: str = ""  # what the PNG shows, where it has its title in it
    html: str = ""  # made by dreamjax or plotly, not escaped
    notes: Sequence[str] = ()
    half: bool = False

    @property
    def source(self) -> str:
        """The PNG as the address of an image."""
        return png_address(self.png)


@dataclass(frozen=True)
class Page:
    """A result: its title, notes in grey, statements to be seen first, and sections.

    `tiles`: (number, what it counts) at the head. `footer`: how numbers were made, before the version.
    """

    title: str
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    statements: Sequence[str] = ()
    tiles: Sequence[tuple[str, str]] = ()
    footer: str = ""

    def html(self) -> str:
        """Return one file that needs no other file and no network."""
        return templates.render("reports/templates/page.html.j2", page=self, version=__version__)

    def text(self, files: Sequence[str] = ()) -> str:
        """Return the page for a terminal, without its figures, and the names of the files that were written."""
        lines = [self.title, *(f"  {note}" for note in self.notes)]
        for section in self.sections:
            if not section.png and not section.html:
                title = [section.title] if section.title else []
                lines += ["", *title, *([section.table.text()] if section.table else []), *section.notes]
        lines += [""] + [f"! {statement}" for statement in self.statements]
        return "\n".join([*lines, *([f"wrote {', '.join(files)}"] if files else [])]).rstrip()


def png_address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def of_result(result: Mapping[str, Any], tables: Sequence[Section], plots: Mapping[str, bytes] | None = None) -> Page:
    """Return the page of a scored run: its figures (name → PNG) with their captions, then its tables."""
    drawn = [Section(result["captions"].get(name, name), png=data) for name, data in (plots or {}).items()]
    return Page(result["title"], [*drawn, *tables], result["notes"], result["statements"], footer=result["method"])


def write(
    result: JsonDict, tables: Sequence[Section], plots: "Mapping[str, Figure]", out: epath.PathLike, stem: str
) -> list[str]:
    """Write STEM.json, STEM.html and a PNG per figure under `out`; return their paths."""
    folder = epath.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    data = {name: figures.png(figure) for name, figure in plots.items()}
    paths = [str(folder / name) for name in (*(f"{name}.png" for name in data), f"{stem}.html", f"{stem}.json")]
    for name, content in data.items():
        atomic.write_bytes(folder / f"{name}.png", content)
    atomic.write_text(folder / f"{stem}.html", of_result(result, tables, data).html())
    atomic.write_text(folder / f"{stem}.json", json.dumps(result | {"files": paths[:-1]}, indent=1, allow_nan=False))
    return paths
