"""A second import in one process: after the modules were removed, of a copy under another name, of another version."""

import re
import shutil
import sys
from pathlib import Path

import pytest

import tokenprune_kernels
from tests.support.subprocess import ROOT, python

PACKAGE = Path(tokenprune_kernels.__file__).parent
START = """
import gc, importlib, sys
import torch
import tokenprune_kernels as t

x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
picks = t.divprune(x, 5).tolist()

def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "tokenprune_kernels"]:
        del sys.modules[name]
    globals().pop("t", None)
    gc.collect()
"""


def copy_of_package(folder, name, changes=()):
    """The package under another name, without what was built unless the name is kept."""
    copy = folder / name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    declaration = copy / "declaration.py"
    text = declaration.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    declaration.write_text(text)
    return copy


def run(code, **options):
    result = python(START + code, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_package_is_imported_again_after_its_modules_were_removed():
    output = run("""
operator, compiled = torch.ops.tokenprune.divprune.default, torch.compile(t.divprune, backend="eager")
assert compiled(x, 5).tolist() == picks
for _ in range(3):
    forget()
    import tokenprune_kernels as t
    assert t.divprune(x, 5).tolist() == operator(x, 5).tolist() == compiled(x, 5).tolist() == picks
    assert torch.ops.tokenprune_native.divprune(x.to("meta"), 5).shape == (5,)
    assert torch.ops.tokenprune.divprune(x.to("meta").requires_grad_(), 5).shape == (5,)
    assert not torch.ops.tokenprune_native.divprune.scores(x.clone().requires_grad_(), 5)[1].requires_grad
try:
    with t.use_backend("triton"):
        operator(x, 5)
except RuntimeError as error:
    print(error)
""")
    assert output.startswith("divprune: backend 'triton' cannot run on cpu tensors"), "use_backend of the new import"


@pytest.mark.slow
def test_modules_can_be_reloaded():
    run("""
for name in ("backends.native", "declaration", "calls", "selectors"):
    importlib.reload(sys.modules[f"tokenprune_kernels.{name}"])
importlib.reload(t)
assert t.divprune(x, 5).tolist() == picks
""")


@pytest.mark.slow
def test_a_copy_under_another_name_is_refused_in_one_line(tmp_path):
    copy_of_package(tmp_path, "vendored")
    output = run(f"""
sys.path.insert(0, {str(tmp_path)!r})
for _ in range(2):
    try:
        import vendored
    except ImportError as error:
        print(error)
assert t.divprune(x, 5).tolist() == picks
""")
    line = (
        f"vendored: expected torch.ops.tokenprune to be free, got one that belongs to tokenprune_kernels in {PACKAGE}; "
        "a second copy needs a NAMESPACE of its own in declaration.py, and an extension that is built with it"
    )
    assert output.splitlines() == [line, line]


@pytest.mark.slow
def test_a_copy_with_a_namespace_of_its_own_lives_beside_the_first(tmp_path):
    """Its extension is that of the first one still, so it has none until it is built."""
    copy_of_package(tmp_path, "vendored", [('NAMESPACE = "tokenprune"', 'NAMESPACE = "vendored_tokenprune"')])
    output = run(f"""
sys.path.insert(0, {str(tmp_path)!r})
import vendored
assert torch.ops.vendored_tokenprune.divprune(x.to("meta"), 5).shape == (5,)
try:
    vendored.divprune(x, 5)
except RuntimeError as error:
    print(error)
assert t.divprune(x, 5).tolist() == picks
""")
    assert output == (
        "divprune: backend 'native' cannot run on cpu tensors: another copy of the extension has registered its "
        "operators in this process; restart Python, or build this one with a NAMESPACE of its own\n"
    )


@pytest.mark.slow
def test_another_version_is_refused_in_one_line(tmp_path):
    copy_of_package(
        tmp_path,
        "tokenprune_kernels",
        [('Tensor? initial=None")\ndef divprune', 'Tensor? initial=None, int more=0")\ndef divprune')],
    )
    output = run(f"""
forget()
sys.path.insert(0, {str(tmp_path)!r})
try:
    import tokenprune_kernels
except ImportError as error:
    print(error)
""")
    assert re.fullmatch(
        r"tokenprune_kernels: expected tokenprune::divprune as this version declares it, got that of another version, "
        r"imported earlier in this process; restart Python\n",
        output,
    )


@pytest.mark.slow
def test_a_namespace_that_a_stranger_has_taken_is_refused_in_one_line():
    result = python(
        "import torch; library = torch.library.Library('tokenprune', 'DEF'); import tokenprune_kernels", path=ROOT
    )
    assert result.stderr.splitlines()[-1].startswith(
        "ImportError: tokenprune_kernels: expected torch.ops.tokenprune to be free, got one that belongs to another "
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory map")
def test_the_extension_is_loaded_once():
    output = run("""
forget()
import tokenprune_kernels
print(len({line.split()[-1] for line in open("/proc/self/maps") if "_C.abi3.so" in line}))
""")
    assert output == "1\n"
