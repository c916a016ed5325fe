"""Writes the package in the layout of Hugging Face kernels: `make kernel-layout`.

    python -m tests.install.kernel_layout build/kernel

From the sources of the package come, under the folder,

- ``cpu/`` and ``cuda/``: two projects with a build.toml of edition 5. One build.toml describes compiled operators or
  none, so the compiled CPU side and the Triton side are two.
- ``build/torch-stable-abi211-cpu-ARCH-OS`` and ``build/torch-cuda``: what a repository of the Hub holds, built here.

Operators are registered under the identifier of a variant, a hash of its sources: several can be loaded at once.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tokenprune_kernels"
NAME = "tokenprune-kernels"
VERSION = 0  # of the kernel: the API may still change
LICENSE = "Apache-2.0"
NAMESPACE_LINE = 'NAMESPACE = "tokenprune"\n'
BACKENDS = ("cpu", "cuda")


def main() -> int:
    """Writes everything under the folder that the command line names."""
    folder = Path(sys.argv[1]).resolve()
    for backend in BACKENDS:
        shutil.rmtree(folder / backend, ignore_errors=True)
        identifier = identifier_of(backend)
        project(folder / backend, backend, identifier)
        variant = folder / "build" / variant_name(backend)
        shutil.rmtree(variant, ignore_errors=True)
        write_variant(variant, folder / backend, backend, identifier)
        (folder / backend / "build.toml").write_text(_build_toml(folder / backend, backend))
        print(f"wrote {variant}")
    return 0


def identifier_of(backend: str) -> str:
    """A name for torch.ops that belongs to these sources alone."""
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "csrc").rglob("*.*")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return f"_{NAME.replace('-', '_')}_{backend}_{digest.hexdigest()[:12]}"


def variant_name(backend: str) -> str:
    """The folder in which the loader looks, on a machine like this one."""
    if backend == "cuda":
        return "torch-cuda"
    oldest = _torch_release()["OLDEST"].replace(".", "")
    return f"torch-stable-abi{oldest}-cpu-{platform.machine()}-{platform.system().lower()}"


def project(folder: Path, backend: str, identifier: str) -> None:
    """The sources of one backend."""
    python = folder / "torch-ext" / NAME.replace("-", "_")
    python.mkdir(parents=True)
    for path in modules():
        target = python / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(PACKAGE / "verify" / "CONTRACT.md", python / "verify")
    (python / "__init__.py").write_text(_public_module())
    declaration = (python / "declaration.py").read_text()
    if NAMESPACE_LINE not in declaration:
        raise ValueError(f"declaration.py: expected the line {NAMESPACE_LINE.strip()}, got none")
    (python / "declaration.py").write_text(declaration.replace(NAMESPACE_LINE, f'NAMESPACE = "{identifier}"\n'))
    if backend == "cpu":
        shutil.copytree(ROOT / "csrc", folder / "csrc")
    shutil.copy(ROOT / "LICENSE", folder)


def modules() -> list[Path]:
    """The backends, what the package's __init__.py and the judge import, and what these import in turn."""
    init = PACKAGE / "__init__.py"
    found, waiting = {init}, [init, PACKAGE / "verify" / "__init__.py", *(PACKAGE / "backends").rglob("*.py")]
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting += [each for each in _imported(path) if each not in found]
    return sorted(found - {init})


def _imported(path: Path) -> list[Path]:
    """The modules that a module imports by a relative path, also where that happens at the first use."""
    tree = ast.parse(path.read_text())
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    names: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in for_types:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names += [base, *(base / alias.name for alias in node.names)]
    files = [file for name in names for file in (name.with_suffix(".py"), name / "__init__.py")]
    return [file for file in files if file.exists() and file != PACKAGE / "__init__.py"]


def write_variant(variant: Path, sources: Path, backend: str, identifier: str) -> None:
    """What the loader imports, with its metadata."""
    package = NAME.replace("-", "_")
    shutil.copytree(sources / "torch-ext" / package, variant)
    if backend == "cpu":
        _compile(sources, variant)
    # Older loaders look for a package in the variant.
    (variant / package).mkdir()
    (variant / package / "__init__.py").write_text(_OLDER.format(identifier=identifier))
    files = {
        path.relative_to(variant).as_posix(): base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
        for path in sorted(variant.rglob("*"))
        if path.is_file()
    }
    metadata = {
        "name": NAME,
        "id": identifier,
        "version": VERSION,
        "license": LICENSE,
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {"algorithm": "sha256", "files": files},
    }
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


_OLDER = '''"""The kernel, where older loaders look for it."""

import importlib.util
import sys
from pathlib import Path

if "{identifier}" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("{identifier}", Path(__file__).parent.parent / "__init__.py")
    sys.modules["{identifier}"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["{identifier}"])
_kernel = sys.modules["{identifier}"]
__all__ = list(_kernel.__all__)
globals().update({{name: getattr(_kernel, name) for name in __all__}})
'''


def _torch_release() -> dict[str, str]:
    tree = ast.parse((PACKAGE / "torch_release.py").read_text())
    constants = [node for node in tree.body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in constants}


def _public_module() -> str:
    """The package's __init__.py without the modules that a kernel leaves out."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    kept, names = [], []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            names += [alias.name for alias in node.names]
        elif not (isinstance(node, ast.Import) and node.names[0].name == "torch") and not isinstance(node, ast.Expr):
            continue
        kept.append(ast.unparse(node))
    kept[0] = f'"""{ast.get_docstring(tree).splitlines()[0]}"""'
    modules_of_our_own = {name for name in names if (PACKAGE / f"{name}.py").exists()}
    public = sorted({*names, "verify"} - modules_of_our_own - {"__version__"})
    return "\n".join([*kept, "from . import verify", f"__all__ = {public!r}", ""])


def _build_toml(folder: Path, backend: str) -> str:
    lines = ["[general]", f'name = "{NAME}"', f"version = {VERSION}", "edition = 5", f'license = "{LICENSE}"']
    lines += [f'backends = ["{backend}"]', ""]
    if backend == "cuda":
        return "\n".join([*lines, "[torch-noarch]", ""])
    sources = sorted(path.relative_to(folder).as_posix() for path in (folder / "csrc").rglob("*.*") if path.is_file())
    operators = [path for path in sources if path.startswith("csrc/cpu/operators/")]
    kernels = [path for path in sources if path not in operators]
    flags = ["-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]

    def listed(values: list[str]) -> str:
        return "[\n" + "".join(f'    "{value}",\n' for value in values) + "]"

    lines += ["[torch]", 'include = ["csrc/cpu"]', f"cxx-flags = {json.dumps(flags)}", f"src = {listed(operators)}", ""]
    lines += ["[torch.stable-abi]", f'cpu = "{_torch_release()["OLDEST"]}"', ""]
    lines += ["[kernel.tokenprune_cpu]", 'backend = "cpu"', 'depends = ["torch"]', 'include = ["csrc/cpu"]']
    return "\n".join([*lines, f"cxx-flags = {json.dumps(flags)}", f"src = {listed(kernels)}", ""])


def _compile(sources: Path, variant: Path) -> None:
    """Builds the extension with the variant's namespace, in a copy of what setup.py needs."""
    tree = sources.parent / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(sources / "csrc", tree / "csrc")
    shutil.copytree(sources / "torch-ext" / NAME.replace("-", "_"), tree / "tokenprune_kernels")
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tree, check=True)
    (built,) = (tree / "tokenprune_kernels").glob("_C*.so")
    shutil.copy(built, variant)
    # kernel-builder does not run setup.py, which makes this header.
    shutil.copy(tree / "build" / "generated" / "operators.h", sources / "csrc" / "cpu" / "operators")
    shutil.rmtree(tree)


if __name__ == "__main__":
    sys.exit(main())
