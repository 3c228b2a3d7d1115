"""Fixtures that every test may use. The suite runs on CPU with 8 virtual devices."""

import atexit
import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
import types
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("MPLBACKEND", "agg")
# tiny shapes compile for longer than they run: the compiler's own optimisations are left out, the partitioner's are not
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",  # pieces for other cores, which other workers need
)
os.environ.setdefault("MNE_DONTWRITE_HOME", "true")

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """Compiled programs are shared by this run's tests, its workers and their children, and go with it."""
    gc.disable()  # until all is imported
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="dreamjax-compiled-")
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look through it again and again (8 % of all time)."""
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real recordings and images: $DREAMJAX_TEST_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("DREAMJAX_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "eeg").is_dir():
        pytest.skip(f"real recordings not found at {folder}; set DREAMJAX_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def real_eeg(real_data: Path) -> Path:
    return real_data / "eeg"


@contextlib.contextmanager
def held_in_memory(scheme: str, monkeypatch):
    """(root path, file system) of `SCHEME://` held in memory: no rename of folders, no append."""
    registry = pytest.importorskip("fsspec.registry")
    from etils import epath
    from etils.epath import backend, gpath
    from fsspec.implementations.memory import MemoryFileSystem

    class Store(MemoryFileSystem):
        protocol = (scheme, "memory")
        store, pseudo_dirs = {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace(f"{scheme}://", "memory://"))

    forget = backend.fsspec_backend._get_filesystem.cache_clear
    with monkeypatch.context() as patched:
        patched.setitem(registry._registry, {"gs": "gcs"}.get(scheme, scheme), Store)  # as epath asks for it
        patched.setitem(gpath._PREFIX_TO_BACKEND, scheme, backend.fsspec_backend)
        patched.setattr(gpath, "_is_tf_installed", lambda: False)
        patched.setattr("dreamjax.storage.leases.SETTLE_S", 0.0)
        forget()
        yield epath.Path(f"{scheme}://bucket"), Store
    forget()  # once nothing can remember it again


@pytest.fixture
def object_store(monkeypatch):
    """`s3://` held in memory."""
    with held_in_memory("s3", monkeypatch) as (root, _):
        yield root


@pytest.fixture
def google_store(monkeypatch):
    """(`gs://` held in memory, the requests for it): one store for epath and, over HTTP, for TensorStore.

    For one test of a process: TensorStore reads the address once.
    """
    from tests import fake_gcs

    with contextlib.ExitStack() as stack:
        root, system = stack.enter_context(held_in_memory("gs", monkeypatch))
        url, served = stack.enter_context(fake_gcs.serving(fake_gcs.InFileSystem(system)))
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "nobody's")
        yield root, served


@pytest.fixture
def freshly_compiled():
    """No program comes out of the cache: what the compiler writes beside it is there."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    for used in (False, True):
        jax.config.update("jax_enable_compilation_cache", used)
        compilation_cache.reset_cache()
        if not used:
            yield


@pytest.fixture
def python_handles_control_c():
    """A suite in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def uncompared(monkeypatch):
    """Exports are not run in their own library, which another process imports for seconds: for tests of the rest."""
    same = contextlib.nullcontext(lambda folder, check, tolerance: None)
    monkeypatch.setattr("dreamjax.export.driver.comparison", lambda layout: same)


@pytest.fixture
def fake_verb(monkeypatch):
    """Puts a verb of the test's own in the place of `simulate`."""

    def install(run, render=lambda result: "for people"):
        module = types.ModuleType("dreamjax.cli.simulate_verb")
        module.HELP, module.EXAMPLE = "Does what the test says.", "dreamjax simulate"
        module.configure = lambda parser: None
        module.run, module.render = run, render
        monkeypatch.setitem(sys.modules, "dreamjax.cli.simulate_verb", module)

    return install
