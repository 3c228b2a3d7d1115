"""Fixtures that every test may use. The suite runs on CPU with 8 virtual devices."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("MNE_DONTWRITE_HOME", "true")

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real recordings and pictures: $DREAMJAX_TEST_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("DREAMJAX_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "eeg").is_dir():
        pytest.skip(f"real recordings not found at {folder}; set DREAMJAX_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def real_eeg(real_data: Path) -> Path:
    return real_data / "eeg"


@pytest.fixture
def object_store(monkeypatch):
    """`s3://` held in memory: no rename of folders, no append."""
    fsspec = pytest.importorskip("fsspec")
    from etils import epath
    from etils.epath import backend, gpath
    from fsspec.implementations.memory import MemoryFileSystem

    class Store(MemoryFileSystem):
        protocol = ("s3", "memory")
        store, pseudo_dirs = {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("s3://", "memory://"))

    fsspec.register_implementation("s3", Store, clobber=True)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "s3", backend.fsspec_backend)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    yield epath.Path("s3://bucket")
    fsspec.registry._registry.pop("s3", None) if hasattr(fsspec.registry, "_registry") else None
