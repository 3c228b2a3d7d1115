"""Scripts from templates that stand beside this file."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def script(template: str, **values: Any) -> str:
    """`templates/NAME.sh.j2` with its blanks filled; every value is quoted by whoever gives it."""
    return _templates().get_template(f"{template}.sh.j2").render(**values)
