"""What `pip install 'dreamjax[…]'` installs, and that the core verbs need no more than its core."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import dreamjax
from dreamjax import errors

REPOSITORY = Path(__file__).resolve().parents[1]
MODULES = {"sklearn": "scikit-learn", "PIL": "pillow"}  # imported by another name than installed
WITHOUT_EXTRAS = """
import json, sys
from importlib.machinery import PathFinder

class InstalledCore(PathFinder):
    '''The installed packages without those of the extras.'''
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = InstalledCore
from dreamjax.cli import main
sys.exit(max(main.main(words) for words in json.loads(sys.argv[1])))
"""


def setup_arguments():
    """The arguments of setup.py's call of `setuptools.setup`."""
    with mock.patch("setuptools.setup") as called:
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return called.call_args.kwargs


def names(requirements):
    return {re.split(r"[\[<>=~ ]", text)[0].replace("_", "-").lower() for text in requirements}


def dreamjax_without_extras(*commands):
    """Run `dreamjax COMMAND` for each of the commands where no optional package can be imported."""
    code = WITHOUT_EXTRAS.format(blocked=sorted(errors.EXTRAS))
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    )


def test_the_torch_extra_has_what_exports_are_compared_with():
    assert names(setup_arguments()["extras_require"]["torch"]) == {"torch", "diffusers", "transformers"}


def test_everything_that_the_tests_install_is_pinned():
    arguments = setup_arguments()
    pinned = names((REPOSITORY / "constraints.txt").read_text().splitlines()[1:])
    wanted = names([*arguments["install_requires"], *arguments["extras_require"]["test"]])
    assert wanted <= pinned
    assert names(arguments["extras_require"]["docs"]) <= pinned


def test_the_version_has_one_place():
    assert setup_arguments()["version"] == dreamjax.__version__


def test_each_optional_package_is_in_the_extra_that_its_error_names():
    extras = setup_arguments()["extras_require"]
    for module, extra in errors.EXTRAS.items():
        package = MODULES.get(module, module).replace("_", "-").lower()
        assert package in names(extras[extra])
        assert package not in names(setup_arguments()["install_requires"])


@pytest.mark.long
def test_training_and_export_need_no_optional_package(tmp_path):
    from tests.support import make_shards

    make_shards(tmp_path / "shards", subjects=4, windows=4)
    train = ["train", "--config", "configs/pretrain/tiny.py:steps=2", "--workdir", str(tmp_path / "run")]
    train += [f"--config.data.path={tmp_path / 'shards'}", "--config.train.batch_size=4", "--config.train.eval_every=2"]
    ended = dreamjax_without_extras(train, ["export", str(tmp_path / "run"), "--out", str(tmp_path / "exported")])
    assert ended.returncode == 0, ended.stderr
    assert "pip install 'dreamjax[report]'; no TensorBoard log" in " ".join(ended.stderr.split())
    assert (tmp_path / "exported" / "model.safetensors").exists()


def test_a_missing_optional_package_is_reported_with_its_extra(tmp_path):
    ended = dreamjax_without_extras(["simulate", "--out", str(tmp_path / "x")])
    assert ended.returncode == 2
    assert "pip install 'dreamjax[data]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_importing_the_package_imports_no_jax():
    code = "import dreamjax, sys; assert not {'jax', 'numpy', 'flax'} & set(sys.modules); dreamjax.__version__"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
