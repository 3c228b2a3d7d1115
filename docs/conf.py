"""Sphinx configuration: `make docs` builds the pages, the notebooks (not executed) and the API reference."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
INIT = (REPOSITORY / "dreamjax" / "__init__.py").read_text(encoding="utf-8")

project = "dreamjax"
author = "the dreamjax authors"
copyright = author
release = version = re.search(r'^__version__ = "(.+)"$', INIT, flags=re.M)[1]

extensions = ["myst_nb", "sphinx.ext.napoleon", "autoapi.extension"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"dreamjax {release}"
templates_path = []

# pages and notebooks
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"

# the API reference is read from the source: nothing of the package is imported
autoapi_dirs = [str(REPOSITORY / "dreamjax")]
autoapi_root = "api"
autoapi_ignore = ["*/cli/*", "*/templates/*"]
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_add_toctree_entry = False
autoapi_keep_files = False
autoapi_python_class_content = "class"
autoapi_member_order = "bysource"
suppress_warnings = [
    "autoapi.python_import_resolution",
    "ref.python",  # a short name in an annotation that several modules have
]

CODE = re.compile(r"(``?[^`]+``?)")
MARKUP = re.compile(r"(?<!\\)[*|]|(?<=\w)_(?!\w)")
LIST = re.compile(r"\s*([-*+•:]|\.\.|\d+[.)])(\s|\S)")


def _plain(line):
    """The line with Markdown's `code` as reStructuredText writes it, and without other markup."""
    parts = CODE.split(line)
    return "".join(f"``{p.strip('`')}``" if CODE.fullmatch(p) else MARKUP.sub(r"\\\g<0>", p) for p in parts)


def _blocks(lines):
    """The paragraphs of a docstring."""
    block = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []


def markdown_to_rst(app, what, name, obj, options, lines):
    """Docstrings are plain text with Markdown's `code`; a block with lines further in is kept as it is laid out."""
    result = []
    for block in _blocks(lines):
        indents = {len(line) - len(line.lstrip()) for line in block}
        if len(indents) == 1 or LIST.match(block[0]):
            result += [_plain(line) for line in block]
        else:
            result += ["::", "", *(f"    {line}" for line in block)]
        result.append("")
    lines[:] = result


def setup(app):
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=900)  # after napoleon
