"""The one environment in which templates are rendered: pages, model cards and launch scripts."""

from functools import cache
from pathlib import Path

import jinja2

PACKAGE = Path(__file__).parent.parent


def render(template: str, /, **values: object) -> str:
    """Return a template with its blanks filled; every name that it reads must be given.

    Args:
        template: path within the package, such as `reports/templates/page.html.j2`. Values are escaped in HTML alone;
            in a script they are quoted by the caller.
        values: what the template calls them → the values.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(PACKAGE),
        undefined=jinja2.StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
