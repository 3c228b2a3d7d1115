"""Render a result for people: one self-contained page, and the same as text for a terminal.

Pages, model cards and launch scripts are rendered in one environment.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from etils import epath

from dreamjax import __version__
from dreamjax.reports import figures
from dreamjax.reports.tables import Table
from dreamjax.storage import atomic
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Section:
    """A heading, its content, and notes below; `half`: half a page wide."""

    title: str = ""
    table: Table | None = None
    png: bytes = b""
    alt: str = ""  # what the PNG shows, where it has its title in it
    html: str = ""  # made by dreamjax or plotly, not escaped
    notes: Sequence[str] = ()
    half: bool = False

    @property
    def source(self) -> str:
        """Return the PNG as the address of an image."""
        return png_address(self.png)


@dataclass(frozen=True)
class Page:
    """A result: its title, notes in grey, the main statements, and sections.

    `tiles`: (number, what it counts) at the top. `footer`: how numbers were computed, before the version.
    """

    title: str
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    statements: Sequence[str] = ()
    tiles: Sequence[tuple[str, str]] = ()
    footer: str = ""

    def html(self) -> str:
        """Return HTML that needs no other file and no network."""
        return render("reports/templates/page.html.j2", page=self, version=__version__)

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
    data = {name: figures.png(figure) for name, figure in plots.items()}
    contents = {f"{name}.png": content for name, content in data.items()}
    contents[f"{stem}.html"] = of_result(result, tables, data).html().encode()
    paths = [str(folder / name) for name in contents]
    text = json.dumps(result | {"files": paths}, indent=1, allow_nan=False)
    atomic.write_together(folder, contents | {f"{stem}.json": text.encode()})
    return [*paths, str(folder / f"{stem}.json")]


def render(template: str, /, **values: object) -> str:
    """Return a rendered template; every name that it uses must be given.

    Args:
        template: path within the package, such as `reports/templates/page.html.j2`. Values are escaped in HTML, and in
            Markdown where the template says `| md`; in a script they are quoted by the caller.
        values: name in the template → value.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PACKAGE),
        undefined=jinja2.StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = in_markdown
    return environment


def in_markdown(text: object) -> str:
    """Return a user's or a dataset's text for Markdown, where it makes no line, cell, tag, link or code."""
    return re.sub(r"[\\|<>`\[\]]", r"\\\g<0>", " ".join(str(text).split()))
