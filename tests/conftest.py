"""The house rules of every test: offline, own folder, own seed, nothing left behind in the process."""

import os
import random
import re
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Set before any library reads them; child processes inherit them.
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "JSONARGPARSE_DEPRECATION_WARNINGS": "off",  # lightning 2.6 calls what jsonargparse 5 will drop
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "Agg",
        "NETRC": os.devnull,  # no W&B key may be found here ...
        "WANDB_BASE_URL": "http://127.0.0.1:9",  # ... and nobody answers there
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_SILENT": "true",
        "WANDB_X_DISABLE_META": "true",
        "WANDB_X_DISABLE_STATS": "true",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only cost
for name in (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    *("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR"),
):
    os.environ.pop(name, None)

LOOPBACK = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None}

# Libraries set these for the rest of the process on purpose; anything else that a test leaves behind is a fault.
MAY_CHANGE = {
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_MODULE_LOADING",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "PYTEST_CURRENT_TEST",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "RANK",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "WANDB_MODE",
    "WANDB_SERVICE",
    "WORLD_SIZE",
}
MAY_CHANGE_PREFIX = (
    "_TORCHINDUCTOR_",
    "_WANDB",
    "KMP_",
    "__KMP_",
    "NUMBA_",
    "TORCHELASTIC_",
    "TORCH_NCCL_",
    "TORCHINDUCTOR_",
    "TRITON_",
)


class NetworkBlocked(OSError):
    """A test tried to leave the machine."""


def _refuse_other_hosts() -> None:
    """Let Python sockets reach this machine only (gloo and data workers need the loopback)."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host):
        host = host.decode() if isinstance(host, bytes) else host
        if host not in LOOPBACK and host != socket.gethostname():
            raise NetworkBlocked(f"a test tried to reach {host!r}; tests run without a network")

    def checked(original):
        def call(self, address):
            if self.family != socket.AF_UNIX:
                check(address[0])
            return original(self, address)

        return call

    def checked_getaddrinfo(host, *args, **kwargs):
        check(host)
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect, socket.socket.connect_ex = checked(connect), checked(connect_ex)
    socket.getaddrinfo = checked_getaddrinfo


_refuse_other_hosts()

try:
    from hypothesis import settings
except ImportError:  # property tests say themselves that hypothesis is missing
    pass
else:
    settings.register_profile("house", deadline=None, derandomize=True, database=None, max_examples=50)
    settings.load_profile("house")


def _seed(seed: int = 0) -> None:
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


SYSTEMS = {path.stem.split("_")[0] for path in (ROOT / "configs").glob("*.yaml")}


def pytest_xdist_auto_num_workers(config):
    """The whole suite runs in a process per core, four at most; a few files that are named run in this process."""
    named = config.invocation_params.args
    whole = not any(Path(str(word).split("::")[0]).exists() for word in named if not str(word).startswith("-"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 4) if whole else 0


def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of one file and one system together: they share fits, which each process makes for itself."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFileAndSystem(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return scope_of(nodeid)

    return ByFileAndSystem(config, log)


def scope_of(nodeid: str) -> str:
    """Return file and system of a test: ``tests/test_x.py::test_y[signs-1]`` -> ``tests/test_x.py signs``."""
    file, _, rest = nodeid.partition("::")
    words = re.split(r"[^a-z]+", rest.partition("[")[2])
    return f"{file} {next((word for word in words if word in SYSTEMS), '')}"


def pytest_collection_modifyitems(config, items):
    """With several processes, begin with what takes longest, so that they end together."""
    if hasattr(config, "workerinput"):
        slow = Counter(scope_of(item.nodeid) for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[scope_of(item.nodeid)])


@pytest.fixture(autouse=True, scope="session")
def no_words_of_pytest():
    """Hide pytest's own words from the command line under test, from fixtures of a module on."""
    words, sys.argv = sys.argv, ["lightning_project"]
    yield
    sys.argv = words


@pytest.fixture(autouse=True)
def house_rules(tmp_path, monkeypatch):
    """Run in an empty folder with fixed seeds, and find out whether the test changed the process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning_project"])
    before = dict(os.environ)
    _seed()
    yield
    monkeypatch.undo()  # what a test patched with monkeypatch is put back first, and is no leak
    changed = {key for key in before.keys() | os.environ.keys() if before.get(key) != os.environ.get(key)}
    for key in changed - {"PYTEST_CURRENT_TEST"}:
        if key in before:
            os.environ[key] = before[key]
        else:
            os.environ.pop(key, None)
    if "matplotlib.pyplot" in sys.modules:
        figures = sys.modules["matplotlib.pyplot"].get_fignums()
        sys.modules["matplotlib.pyplot"].close("all")
        assert not figures, f"figures left open: {figures}"
    leaked = {key for key in changed - MAY_CHANGE if not key.startswith(MAY_CHANGE_PREFIX)}
    assert not leaked, f"environment variables left changed: {sorted(leaked)}"


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets, named by LIGHTNING_PROJECT_DATA; tests that need it are skipped without."""
    folder = os.environ.get("LIGHTNING_PROJECT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LIGHTNING_PROJECT_DATA does not name a folder")
    return Path(folder).resolve()
