"""The house rules that a reader of CONTRIBUTING.md relies on, checked on the sources and on the wheel."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOTS = ("geovit", "core", "apps", "datasets", "configs")
SOURCES = sorted(path for root in ROOTS for path in (REPOSITORY / root).rglob("*.py"))
LADDER = ("core.ops", "core.layers", "core.blocks", "core.backbones", "apps")
ACCELERATORS = {"triton", "mamba_ssm", "causal_conv1d", "natten", "flash_attn", "xformers", "fla", "liger_kernel", "cupy", "jax"}
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))


def package_of(path: Path) -> list[str]:
    """core/ops/swiglu/eager.py -> ["core", "ops", "swiglu"]; geovit/__init__.py -> []."""
    parts = list(path.relative_to(REPOSITORY).parent.parts)
    return parts[1:] if parts[0] == "geovit" else parts


def imported(path: Path) -> list[str]:
    """Dotted names, below ``geovit``, of the modules and names that a file imports relatively, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = package_of(path)
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            names += [".".join([*base, alias.name]) for alias in node.names]
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@each_source
def test_imports_climb_the_ladder(path):
    here = ".".join(package_of(path))
    step = next((i for i, name in enumerate(LADDER) if within(here, name)), None)
    if step is not None:
        above = [name for name in imported(path) if any(within(name, other) for other in LADDER[step + 1 :])]
        assert not above, f"{here} may not import from {LADDER[step + 1 :]}"
    if within(here, "core"):
        assert not [name for name in imported(path) if not within(name, "core")], "core knows nothing of the rest"
    if within(here, "datasets"):
        assert not [name for name in imported(path) if not within(name, "datasets")], "datasets opens files and knows no model"


@each_source
def test_apps_do_not_import_each_other(path):
    package = package_of(path)
    if package[:1] == ["apps"] and len(package) > 1:
        own = ".".join(package[:2])
        others = {f"apps.{other.name}" for other in (REPOSITORY / "apps").iterdir() if other.is_dir()} - {own}
        assert not [name for name in imported(path) if any(within(name, other) for other in others)]


@each_source
def test_imports_inside_the_package_are_relative(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        assert not [name for name in names if name.split(".")[0] in ROOTS], "tools can follow only relative imports here"


@each_source
def test_no_accelerator_is_imported_at_module_level(path):
    # But for an op's triton.py, which in turn only another triton.py imports at module level.
    tops = ast.parse(path.read_text(encoding="utf-8")).body
    imports = [node for node in tops if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name.split(".")[0] for node in imports if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module.split(".")[0] for node in imports if isinstance(node, ast.ImportFrom) and not node.level}
    own = {word for node in imports if isinstance(node, ast.ImportFrom) and node.level for word in (node.module or "").split(".")}
    own |= {alias.name for node in imports if isinstance(node, ast.ImportFrom) and node.level for alias in node.names}
    assert not ((modules | own) - {path.stem}) & ACCELERATORS


@each_source
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@each_source
def test_nothing_is_unpickled(path):
    # Unpickling a file runs whatever its author wrote into it; torch can read tensors without that.
    modules = r"^\s*(?:import|from) (?:pickle|dill|joblib)\b(?! import UnpicklingError$)"
    banned = rf"torch\.load\((?!.*weights_only=True\))|{modules}|allow_pickle=True"
    assert not re.findall(banned, path.read_text(encoding="utf-8"), re.MULTILINE)


def test_import_is_quick_and_leaves_torch_alone():
    code = "import sys, time; t = time.perf_counter(); import geovit; print(time.perf_counter() - t, 'torch' in sys.modules)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() for _ in range(3)
    ]
    assert min(float(seconds) for seconds, _ in runs) < 0.5
    assert {torch for _, torch in runs} == {"False"}


def test_wheel_holds_every_module_and_config(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        f"{'' if root == 'geovit' else 'geovit/'}{path.relative_to(REPOSITORY).as_posix()}"
        for root in ROOTS
        for path in (REPOSITORY / root).rglob("*")
        if path.suffix in {".py", ".yaml", ".json", ".conf", ".typed", ".safetensors", ".html"}
    }
    assert wanted <= held
    assert not {name for name in held - wanted if not name.endswith((".md", "_native.so"))}, "strays in the wheel"
