"""What `pip install 'dreamjax[…]'` brings: the packages that each extra is for, all at versions that were tested."""

import re
import runpy
from pathlib import Path
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[1]


def requirements():
    """setup.py's own call, with setuptools' function in the way."""
    with mock.patch("setuptools.setup") as called:
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return called.call_args.kwargs


def names(wanted):
    return {re.split(r"[\[<>=~ ]", text)[0].replace("_", "-").lower() for text in wanted}


def test_the_torch_extra_loads_what_torch_users_have():
    assert names(requirements()["extras_require"]["torch"]) == {"torch", "safetensors", "diffusers", "transformers"}


def test_everything_that_the_tests_install_is_pinned():
    asked = requirements()
    pinned = names((REPOSITORY / "constraints.txt").read_text().splitlines()[1:])
    assert names([*asked["install_requires"], *asked["extras_require"]["test"]]) <= pinned
