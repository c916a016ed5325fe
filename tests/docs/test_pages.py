"""The pages keep up with the source: links lead somewhere, what they name exists, and their examples run."""

import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
if not (ROOT / "mkdocs.yml").exists():
    pytest.skip("needs the source tree, with its pages", allow_module_level=True)


def load_hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()
DOCS = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("**/*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS]
DESIGN = [page for page in PAGES if page.startswith("docs/design/") or page == "CONTRIBUTING.md"]
WITH_EXAMPLES = [page for page in PAGES if "```python" in (ROOT / page).read_text()]
TREE = ("csrc", "tokenprune_kernels", "python_ref", "tests", "bench", "docs")
FILE_NAME = re.compile(r"(?<![\w/.-])((?:\w+/)*\w+\.(?:py|h|cpp|inc|c|md))\b")


def anchors(page):
    """The anchors of a page's headings, as GitHub and mkdocs both make them."""
    text, _ = hooks.text_of(page)
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@cache
def files():
    """Every file of the tree, by its name."""
    known = {}
    for folder in TREE:
        for path in (ROOT / folder).rglob("*.*"):
            known.setdefault(path.name, []).append(path.relative_to(ROOT).as_posix())
    for path in ROOT.glob("*.*"):
        known.setdefault(path.name, []).append(path.name)
    return known


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    path = ROOT / page
    broken = []
    for link in hooks.links(path.read_text()):
        target, fragment = hooks.target_of(link, path.parent.relative_to(ROOT).as_posix()) or (page, "")
        source = ROOT / target
        if not source.is_file():
            broken.append(f"{link}: no such file")
        elif fragment and source.suffix == ".md" and fragment not in anchors(source):
            broken.append(f"{link}: no such heading")
        elif fragment and source.suffix != ".md" and hooks.line_of(source, fragment) is None:
            broken.append(f"{link}: not defined there")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("page", PAGES)
def test_every_anchor_on_the_page_itself_exists(page):
    own = re.findall(r"\]\(#([^)]+)\)", (ROOT / page).read_text())
    assert set(own) <= anchors(ROOT / page)


@pytest.mark.parametrize("page", DESIGN)
def test_every_file_that_a_page_names_exists(page):
    missing = [
        name
        for name in FILE_NAME.findall((ROOT / page).read_text())
        if "NAME" not in name
        and not any(f"/{path}".endswith(f"/{name}") for path in files().get(name.rpartition("/")[2], []))
    ]
    assert not missing


def test_the_walk_through_a_call_names_each_file_once():
    page = "docs/design/one-call.md"
    steps = re.findall(r"^(\d+)\. \[([\w.]+)\]\(([^)#]+)", (ROOT / page).read_text(), re.MULTILINE)
    assert [int(number) for number, _, _ in steps] == list(range(1, len(steps) + 1))
    assert len(steps) > 20
    assert len({target for _, _, target in steps}) == len(steps)
    assert all(target.endswith(f"/{name}") for _, name, target in steps)


@pytest.mark.parametrize(
    "module",
    [
        "tokenprune_kernels",
        "tokenprune_kernels.integrations.transformers",
        "tokenprune_kernels.verify",
        "tokenprune_kernels.metrics",
        "tokenprune_kernels.baselines",
        "tokenprune_kernels.distributed",
    ],
)
def test_the_api_page_has_every_public_name(module):
    source = importlib.import_module(module)
    public = getattr(source, "__all__", None) or [
        name
        for name, value in vars(source).items()
        if getattr(value, "__module__", None) == module and not name.startswith("_")
    ]
    documented = re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    others = (
        "__version__",
        "baselines",
        "distributed",
        "importance",
        "metrics",
        "verify",
        "check_dimensions",
    )  # modules, a helper
    assert {f"{module}.{name}" for name in public if name not in others} <= set(documented)


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.fixture
def example_names():
    """What an example of the transformers integration takes for given."""
    vision_language = pytest.importorskip("tests.support.vision_language")
    inputs, new = (vision_language.batch("llava", row) for row in ("ttItt", "tIt"))
    return {"model": vision_language.model_of("llava"), "inputs": inputs, "new": new}


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_the_examples_run(page, request):
    text = (ROOT / page).read_text()
    names = request.getfixturevalue("example_names") if "model" in text and "generate(" in text else {}
    torch.manual_seed(0)
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], page, "exec"), names)  # line numbers are those of the page


PYTHON = """
LIMIT = 1
SIZE: int = 2


def outer():
    def inner():
        pass
    called()


class Case:
    def method(self):
        pass
"""
CPP = """
constexpr std::int64_t kChunk = 1024;
struct Key {
  float score;
};
constexpr bool comes_before(Key a, Key b) { return later(a, b); }
template <class T>
TOKENPRUNE_INLINE Lanes multiply_add(Elements<T> a, Elements<T> b, Lanes c) {
  return called(a, b);
  const Key first = member.called(a);
}
"""


@pytest.mark.parametrize(
    ("name", "line"),
    [("LIMIT", 2), ("SIZE", 3), ("outer", 6), ("Case", 12), ("Case.method", 13), ("inner", None), ("called", None)],
)
def test_a_definition_in_python_is_found(name, line, tmp_path):
    (tmp_path / "a.py").write_text(PYTHON)
    assert hooks.line_of(tmp_path / "a.py", name) == line


@pytest.mark.parametrize(
    ("name", "line"),
    [("kChunk", 2), ("Key", 3), ("comes_before", 6), ("multiply_add", 8), ("later", None), ("called", None)],
)
def test_a_definition_in_cpp_is_found(name, line, tmp_path):
    (tmp_path / "a.h").write_text(CPP)
    assert hooks.line_of(tmp_path / "a.h", name) == line


def rendered(page, markdown):
    file = SimpleNamespace(generated_by=None, abs_src_path=str(ROOT / "docs" / page), src_uri=page)
    return hooks.on_page_markdown(markdown, SimpleNamespace(file=file))


def test_links_to_the_source_lead_to_its_copy_on_the_site():
    number = hooks.line_of(ROOT / "tokenprune_kernels" / "dispatch.py", "use_backend")
    markdown = "[a](../../tokenprune_kernels/dispatch.py#use_backend) [b](cpu.md#bits) [c](https://example.org/x#y)"
    assert rendered("design/index.md", markdown) == (
        f"[a](../source/tokenprune_kernels/dispatch.py.md#__codelineno-0-{number}) [b](cpu.md#bits) "
        "[c](https://example.org/x#y)"
    )


def test_an_included_page_has_the_text_and_the_links_of_its_file():
    text = rendered("contributing.md", (ROOT / "docs" / "contributing.md").read_text())
    assert text.startswith("# Contributing")
    assert "](design/index.md)" in text
    assert "](docs/" not in text


def test_code_blocks_stay_as_they_are():
    block = "```\n[a](../README.md)\n```\n"
    assert rendered("install.md", block) == block
