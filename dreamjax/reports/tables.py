"""Tables for the terminal, and result pages: text, JSON, PNG figures, one self-contained HTML page."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from dreamjax.storage import atomic

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


# ----------------------------------------------------------------------------------------------------------------- text
def cell(value: Mapping[str, Any] | None, signed: bool = False) -> str:
    """`0.61 [0.55, 0.67]`, or without bounds where there are none."""
    if value is None or value["estimate"] is None:
        return "–"
    plus = "+" if signed else ""
    number = f"{value['estimate']:{plus}.3f}"
    if value["low"] is None:
        return f"{number} [no interval]"
    return f"{number} [{value['low']:{plus}.3f}, {value['high']:{plus}.3f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def text(result: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """A result with its tables for a terminal."""
    lines = [result["title"], *(f"  {note}" for note in result["notes"])]
    for title, header, rows in tables:
        lines += ["", title, table(header, rows)]
    lines += [""] + [f"! {statement}" for statement in result["statements"]]
    if result.get("files"):
        lines += ["wrote " + ", ".join(result["files"])]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------------- figure
def png(fig: Any, dpi: int = 160) -> bytes:
    """A figure as PNG bytes."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------- files
def write(
    result: dict[str, Any], tables: Sequence[Table], figures: Mapping[str, Any], out: epath.PathLike, stem: str
) -> list[str]:
    """STEM.json, STEM.html and a PNG per figure under `out`; returns their paths."""
    folder = epath.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files, images = [], {}
    for name, fig in figures.items():
        data = png(fig)
        path = folder / f"{name}.png"
        atomic.write_bytes(path, data)
        images[name] = base64.b64encode(data).decode()
        files.append(str(path))
    atomic.write_text(folder / f"{stem}.html", html(result, tables, images))
    files.append(str(folder / f"{stem}.html"))
    atomic.write_text(folder / f"{stem}.json", json.dumps(result | {"files": files}, indent=1, allow_nan=False))
    return [*files, str(folder / f"{stem}.json")]


def html(result: Mapping[str, Any], tables: Sequence[Table], images: Mapping[str, str]) -> str:
    """One page with everything in it: no script, no link, no file beside it."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader("dreamjax.reports", "."), autoescape=True)
    template = environment.get_template("report.html.j2")
    return template.render(result=result, tables=tables, images=images)
