"""The house stays tidy: who imports whom, what steps may do, names, sizes. All is read with ast, nothing imported."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lightning_project", "datamodules", "modules", "callbacks")
OURS = {*PACKAGES, "benchmarks", "notebooks", "tests", "configs"}
SYSTEMS = {"signs", "plants", "language", "papers", "gcode"}  # the first word of every system's files

# Third-party packages of each room; the standard library is always allowed. None = anything.
LIBRARIES = {
    "modules/nets": {"torch", "timm", "transformers"},
    "modules": {"torch", "lightning", "torchmetrics", "numpy", "pandas", "scipy", "sklearn", "safetensors"},
    "datamodules": {
        *("torch", "lightning", "numpy", "pandas", "pyarrow", "sklearn", "imblearn", "scipy", "aeon", "datasets"),
        *("tokenizers", "transformers", "tqdm", "torchvision", "timm", "PIL", "httpx"),
    },
    "callbacks": {
        *("torch", "lightning", "numpy", "pandas", "sklearn", "imblearn", "scipy", "matplotlib", "wandb"),
        *("safetensors", "torchmetrics", "transformers", "tqdm", "yaml"),
    },
    "lightning_project": None,
}
FORBIDDEN_IN_STEPS = (".to_csv", ".item", ".savefig", ".write_text", ".write_bytes")
# Words in a file's own name that history should carry instead.
BAD_NAME = re.compile(r"(?i)(^|[_\-. ])(v\d+|new|old|backup|bak|copy|final|tmp)($|[_\-. ])")


@cache
def tracked() -> tuple[Path, ...]:
    """Files under version control and new ones that git does not ignore; every file where there is no git."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        files = [ROOT / name for name in out.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        hidden = {"runs", "__pycache__", "wandb"}
        parts = ((path, path.relative_to(ROOT).parts) for path in ROOT.rglob("*"))
        files = [p for p, names in parts if not any(n in hidden or (n.startswith(".") and n != ".ci") for n in names)]
    return tuple(sorted(path for path in files if path.is_file()))


def python_files(*folders: str) -> list[Path]:
    return [p for p in tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in the file; relative imports are made absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            base = (start + (node.module or "")).rstrip(".")
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names if base.split(".")[0] in OURS}
    return found


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "modules/nets" if parts[:2] == ("modules", "nets") else parts[0]


def system_of(dotted: str) -> str | None:
    """The system that `modules.gcode_decoder` or `datamodules.synthetic.signs` belongs to; None for a shared file."""
    words = dotted.split(".")
    place = 2 if len(words) > 2 and words[1] in {"nets", "synthetic"} else 1
    word = words[place].split("_")[0] if len(words) > place else ""
    return word if word in SYSTEMS and dotted != "modules.gcode_tokens" else None


def may_import(path: Path, dotted: str) -> bool:
    """The table of DESIGN: data flows from datamodules through modules to callbacks; lightning_project sees all."""
    here, top = room(path), dotted.split(".")[0]
    mine = system_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if top not in OURS:
        allowed = LIBRARIES[here]
        return allowed is None or top in allowed or top in sys.stdlib_module_names
    if here == "lightning_project":
        return top in PACKAGES
    theirs = system_of(dotted)
    if theirs is not None and theirs != mine:
        return False  # shared files know no system, and no system knows another
    return {
        "modules/nets": dotted == "modules" or dotted.startswith("modules.nets"),
        "modules": top == "modules",
        "datamodules": top == "datamodules" or dotted == "modules" or dotted.startswith("modules.gcode_tokens"),
        "callbacks": top in {"callbacks", "datamodules", "modules"} and not dotted.startswith("modules.nets"),
    }[here]


@pytest.mark.parametrize("path", python_files(*PACKAGES), ids=name_of)
def test_imports_follow_the_house(path):
    wrong = sorted(dotted for dotted in imports(path) if not may_import(path, dotted))
    assert not wrong, f"{name_of(path)} may not import {wrong}"


@pytest.mark.parametrize(
    ("path", "dotted", "allowed"),
    [
        ("modules/nets/signs.py", "lightning.pytorch", False),
        ("modules/nets/signs.py", "torch.nn", True),
        ("modules/signs.py", "modules.nets.signs", True),
        ("modules/signs.py", "modules.nets.plants", False),
        ("modules/signs.py", "datamodules.base", False),
        ("modules/gcode_decoder.py", "modules.nets.gcode_encoder", True),
        ("datamodules/gcode.py", "modules.gcode_tokens", True),
        ("datamodules/signs.py", "modules.losses", False),
        ("datamodules/signs.py", "datamodules.synthetic.signs", True),
        ("datamodules/base.py", "datamodules.signs", False),
        ("callbacks/probes.py", "modules.signs", False),
        ("callbacks/probes.py", "datamodules.base", True),
        ("callbacks/probes.py", "lightning_project.cli", False),
        ("lightning_project/cli.py", "modules.signs", True),
    ],
)
def test_the_import_rule_itself(path, dotted, allowed):
    assert may_import(ROOT / path, dotted) is allowed


def test_relative_imports_are_understood(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "modules" / "nets" / "signs.py"
    path.parent.mkdir(parents=True)
    path.write_text("from ..base import System\nfrom . import parts\n")
    assert imports(path) == {"modules.base", "modules.base.System", "modules.nets", "modules.nets.parts"}


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    return [(called(node), node) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", python_files("modules"), ids=name_of)
def test_steps_touch_neither_disk_nor_figures_nor_the_host(path):
    """Files and figures are a callback's work; .item() waits for the device."""
    wrong = [
        f"line {node.lineno}: {name}"
        for name, node in calls(path)
        if name in {"open", "print"} or name.startswith("plt.") or name.endswith(FORBIDDEN_IN_STEPS)
    ]
    assert not wrong, f"{name_of(path)}: {wrong}"


def system_classes() -> set[str]:
    """Names of all LightningModules of ours, found through their base classes."""
    classes = [node for p in python_files("modules") for node in ast.walk(tree(p)) if isinstance(node, ast.ClassDef)]
    known = {"LightningModule", "System", "Classifier"}
    while grown := {c.name for c in classes for b in c.bases if ast.unparse(b).split(".")[-1] in known} - known:
        known |= grown
    return known


def test_no_system_is_built_inside_another():
    """The inner one would take the outer one's hyperparameters: systems hold plain networks only."""
    known = system_classes()
    built = [(p, name, node) for p in python_files("modules") for name, node in calls(p)]
    wrong = [f"{name_of(p)}:{node.lineno} {name}" for p, name, node in built if name.split(".")[-1] in known]
    assert not wrong, wrong


@pytest.mark.parametrize("path", python_files(*PACKAGES, "benchmarks", "notebooks"), ids=name_of)
def test_nothing_that_runs_code_from_a_file_is_switched_on(path):
    wrong = []
    for name, node in calls(path):
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if (keyword.arg, value) in {("weights_only", False), ("allow_pickle", True), ("trust_remote_code", True)}:
                wrong.append(f"line {node.lineno}: {name}({keyword.arg}={value})")
        if name in {"eval", "exec", "pickle.load", "pickle.loads", "joblib.load", "os.system"}:
            wrong.append(f"line {node.lineno}: {name}")
    assert not wrong, f"{name_of(path)}: {wrong}"


def test_file_names_leave_history_to_git():
    wrong = [name_of(p) for p in tracked() if BAD_NAME.search(p.stem)]
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("stem", "bad"), [("signs_v2", True), ("new_loop", True), ("backup", True), ("renewal", False), ("signs", False)]
)
def test_the_name_rule_itself(stem, bad):
    assert bool(BAD_NAME.search(stem)) is bad


def test_no_registry_host_and_no_path_of_one_machine():
    """A lock, config or document that names them works on one machine only. (Joined, so that this file passes.)"""
    hosts = ["py" + "pi.org", "python" + "hosted.org", "registry." + "npmjs", "download." + "pytorch.org"]
    folders = ("home", "root", "Users", "t" + "mp", "wo" + "rk", "mnt", "scr" + "atch")
    paths = [r"(?<![\w.<}])/" + folder + "/" for folder in folders]
    rule = re.compile("|".join([*map(re.escape, hosts), *paths]))
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures and archives
        lines = enumerate(text.splitlines(), 1)
        wrong += [f"{name_of(path)}:{n} {found.group()}" for n, line in lines if (found := rule.search(line))]
    assert not wrong, wrong


def test_large_files_stay_outside():
    wrong = [f"{name_of(p)}: {p.stat().st_size // 1024} KiB" for p in tracked() if p.stat().st_size > 500 * 1024]
    assert not wrong, wrong


def text_of(*folders: str) -> str:
    files = [p for p in tracked() if p.suffix in {".yaml", ".py"} and p.relative_to(ROOT).parts[0] in folders]
    return "\n".join(p.read_text(encoding="utf-8") for p in files)


def user_facing(path: Path, node: ast.ClassDef) -> bool:
    """What a config can name, and what a user can run into: systems, datamodules, callbacks and errors."""
    bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
    known = {"System", "Classifier", "SplitDataModule", "LRScheduler"} & bases
    callback = path.parts[-2] == "callbacks" and {"Callback", "EarlyStopping", "ModelCheckpoint"} & bases
    return bool(known or callback) or any(base.endswith(("Error", "Exception")) for base in bases)


def test_every_public_class_is_named_by_a_config_or_a_test():
    """Untested code is what nothing names. A part that users never name may be used by our own code instead."""
    named, ours = text_of("configs", "tests"), text_of(*PACKAGES)
    nodes = [(p, node) for p in python_files(*PACKAGES) for node in tree(p).body if isinstance(node, ast.ClassDef)]
    public = [(p, node) for p, node in nodes if not node.name.startswith("_")]
    assert public
    unknown = [
        f"{name_of(p)}: {node.name}"
        for p, node in public
        if not re.search(rf"\b{node.name}\b", named)
        and (user_facing(p, node) or len(re.findall(rf"\b{node.name}\b", ours)) < 2)
    ]
    assert not unknown, unknown


def over_budget() -> list[str]:
    """Sizes above the house's budgets: a smell to look at, not a fault."""
    found = []
    small = {"lightning_project/cli.py": 120, "modules/base.py": 100}
    for path in python_files(*PACKAGES):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > (limit := small.get(name_of(path), 300)):
            found.append(f"{name_of(path)}: {lines} lines (budget {limit})")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                arguments = len(node.args.args) + len(node.args.kwonlyargs) - 1
                if length > 50:
                    found.append(f"{name_of(path)}:{node.lineno} {node.name}: {length} lines (budget 50)")
                if node.name == "__init__" and arguments > 15:
                    found.append(f"{name_of(path)}:{node.lineno} constructor: {arguments} arguments (budget 15)")
    return found


def test_budgets_are_printed(capsys):
    with capsys.disabled():
        for line in over_budget():
            print(f"\nover budget: {line}", end="")
