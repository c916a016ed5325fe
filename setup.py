"""Builds the extension tokenprune_kernels/_C.abi3.so. Everything else about the package is in pyproject.toml.

The extension uses torch's stable interface alone, and no Python: one file serves every Python, and every torch from the
oldest supported one on, whichever of them it was built beside.

TOKENPRUNE_SANITIZE=1 builds with AddressSanitizer and UndefinedBehaviorSanitizer (see `make sanitize`).
"""

import ast
import os
import runpy
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths
except ImportError:
    # Enough for the metadata and for a source distribution; the extension is then refused below.
    torch, BuildExtension = None, build_ext

ROOT = Path(__file__).parent
GENERATED = ROOT / "build" / "generated"
SANITIZE = os.environ.get("TOKENPRUNE_SANITIZE") == "1"

COMPILE_FLAGS = [
    "-std=c++20",  # torch >= 2.14 refuses an older one
    "-O2" if SANITIZE else "-O3",
    "-ffp-contract=off",  # a similarity and a score round the same way wherever the compiler inlines them
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-maybe-uninitialized",  # GCC 12 raises it inside its own AVX-512 intrinsics
    "-Werror=return-type",
]
LINK_FLAGS = []
LIBRARIES = {}
if torch is not None:
    torch_release = runpy.run_path(str(ROOT / "tokenprune_kernels" / "torch_release.py"))
    major, minor = map(int, torch_release["OLDEST"].split("."))
    COMPILE_FLAGS.append(f"-DTORCH_TARGET_VERSION={major << 56 | minor << 48:#x}")
    COMPILE_FLAGS += [f"-isystem{path}" for path in include_paths()]
    LIBRARIES = {"libraries": ["torch_cpu"], "library_dirs": library_paths()}
if SANITIZE:
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
    COMPILE_FLAGS += flags
    LINK_FLAGS += flags
else:
    COMPILE_FLAGS.append("-g0")  # Python's own flags ask for debug information


def write_operators_header() -> None:
    """Hands the declaration's namespace and schemas to C++ as the macros of build/generated/operators.h."""
    declaration = ast.parse((ROOT / "tokenprune_kernels" / "declaration.py").read_text())
    namespace = None
    operators = []
    for node in declaration.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NAMESPACE":
            namespace = ast.literal_eval(node.value)
        for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "_operator":
                operators.append((node.name, ast.literal_eval(decorator.args[0])))
    if namespace is None or not operators:
        raise RuntimeError("tokenprune_kernels/declaration.py: expected NAMESPACE and declared operators")
    lines = [
        "#pragma once",
        f"#define TOKENPRUNE_NATIVE_NAMESPACE {namespace}_native",
        "#define TOKENPRUNE_OPERATORS(define) \\",
        *(f'  define({name}, "{arguments}") \\' for name, arguments in operators),
    ]
    text = "\n".join(lines) + "\n\n"
    header = GENERATED / "operators.h"
    header.parent.mkdir(parents=True, exist_ok=True)
    if not header.exists() or header.read_text() != text:  # an untouched header keeps rebuilds incremental
        header.write_text(text)


def check_torch() -> None:
    """Refuses to build without torch, or with one that is too old.

    An isolated build has its own packages. A torch among them would be downloaded for this build alone, gigabytes of
    it: pyproject.toml does not ask for it.
    """
    if torch is None:
        raise SystemExit(
            "tokenprune_kernels: expected to be built with the installed torch, got a build without torch; install "
            "torch and ninja, and run pip with --no-build-isolation"
        )
    try:
        torch_release["check_supported"](torch.__version__)
    except ImportError as error:
        raise SystemExit(str(error)) from None


def check_compiler() -> None:
    """Refuses to build without a compiler, or with one that is too old; in one line, where torch prints pages."""
    command = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(command[0]) is None:
        raise SystemExit(
            f"tokenprune_kernels: expected a C++20 compiler, got none ({command[0]} is not found); install one, or "
            "install a wheel"
        )
    standard = subprocess.run(
        [*command, "-std=c++20", "-x", "c++", "-fsyntax-only", os.devnull], capture_output=True, check=False
    )
    if standard.returncode != 0:
        raise SystemExit(
            f"tokenprune_kernels: expected a C++20 compiler, got {shlex.join(command)}, which refuses -std=c++20"
        )


class Build(BuildExtension):
    def finalize_options(self) -> None:
        super().finalize_options()
        # The one place for objects, so that `pip install -e .` and `make build` share an incremental build.
        self.build_temp = str(ROOT / "build" / "objects")

    def get_ext_filename(self, name: str) -> str:
        # Free-threaded releases of Python, and those after 3.14, would have another suffix of their own.
        return str(Path(*name.split("."))) + ".abi3.so"

    def run(self) -> None:
        check_torch()
        check_compiler()
        write_operators_header()
        super().run()
        built = Path(self.get_ext_fullpath("tokenprune_kernels._C"))
        for superseded in built.parent.glob("_C.cpython-*"):  # bound to one Python and one torch, by an older version
            superseded.unlink()


HEADERS = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.inc"), GENERATED / "operators.h"]
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.cpp"))

setup(
    ext_modules=[
        Extension(
            "tokenprune_kernels._C",
            SOURCES,
            depends=[str(path) for path in HEADERS],
            include_dirs=[str(ROOT / "csrc" / "cpu"), str(GENERATED)],
            extra_compile_args=COMPILE_FLAGS,
            extra_link_args=LINK_FLAGS,
            language="c++",
            py_limited_api=True,
            **LIBRARIES,
        )
    ],
    cmdclass={"build_ext": Build},
    # setuptools refuses it where the Python is free-threaded: the wheel is then for this one Python.
    options={"bdist_wheel": {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"py_limited_api": "cp310"}},
)
