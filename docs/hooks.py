"""What mkdocs does beside its own work: links that leave docs/, and pages whose text lies elsewhere in the tree.

Pages link to the source with paths, as GitHub shows them: ``../csrc/cpu/selection/order.h#comes_before``. The part
after ``#`` names a definition in that file. On the site the link leads to a copy of the file, to the definition's line.
A page that consists of one link and begins with ``<!-- include -->`` shows the linked Markdown file in its place.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SOURCES = "source"
_LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")
_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_INCLUDE = re.compile(r"\s*<!-- include -->\s*\[[^\]]*\]\(([^()\s]+)\)\s*")
_PICTURES = {".png", ".svg"}
_LANGUAGES = {".py": "python", ".h": "cpp", ".cpp": "cpp", ".inc": "cpp", ".md": "markdown", ".yml": "yaml"}


def line_of(path: Path, name: str) -> int | None:
    """The line that defines a function, class or constant of a Python or C++ file; None where there is none.

    Args:
        path: the file.
        name: the definition, as ``name`` or, of a Python class, ``Class.name``.
    """
    text = path.read_text()
    return _line_in_python(text, name) if path.suffix == ".py" else _line_in_cpp(text, name)


def _line_in_python(text: str, name: str) -> int | None:
    body = ast.parse(text).body
    line = None
    for part in name.split("."):
        node = next((node for node in body if part in _defined(node)), None)
        if node is None:
            return None
        line, body = node.lineno, getattr(node, "body", [])
    return line


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _line_in_cpp(text: str, name: str) -> int | None:
    word = re.escape(name)
    definition = re.compile(
        rf"^\s*(?:template\s*<.*>\s*)?(?:struct|class|enum class|using|namespace|#define)\s+{word}\b(?!.*;\s*$)"
        rf"|^\s*using\s+{word}\s*="
        rf"|^\s*(?:inline |static |constexpr |const |std::|[\w:<>]+\s)+[\w:<>, ]*\b{word}\s*(?:\{{|=)"
        rf"|^\s*(?!return\b|else\b|if\b|while\b|throw\b|new\b)[\w:][\w:<>,&*\[\] ]*[\s&*]{word}\s*\("
    )
    return next((number for number, line in enumerate(text.splitlines(), 1) if definition.search(line)), None)


def links(text: str) -> list[str]:
    """The targets of a page's links, those of code blocks left out."""
    return _LINK.findall(_FENCE.sub("", text))


def included(text: str) -> str | None:
    """The file that a page shows in its own place; None for a page that has its own text."""
    match = _INCLUDE.fullmatch(text)
    return match[1] if match else None


def target_of(link: str, directory: str) -> tuple[str, str] | None:
    """The path from the root of the tree and the fragment of a relative link; None for any other link.

    Args:
        link: as the page has it.
        directory: of the page, from the root of the tree.
    """
    path, _, fragment = link.partition("#")
    if not path or re.match(r"[a-z]+:|/", path):
        return None
    return posixpath.normpath(posixpath.join(directory, path)), fragment


def _pages_that_include() -> dict[str, str]:
    """The pages of docs/ that show another file, by that file."""
    pages = {}
    for page in sorted((ROOT / "docs").glob("**/*.md")):
        link = included(page.read_text())
        if link is not None:
            target, _ = target_of(link, page.parent.relative_to(ROOT).as_posix()) or ("", "")
            pages[target] = page.relative_to(ROOT / "docs").as_posix()
    return pages


def text_of(page: Path) -> tuple[str, str]:
    """The text that a page shows, and the directory, from the root of the tree, that its links start from."""
    text, directory = page.read_text(), page.parent
    link = included(text)
    if link is not None:
        source = (page.parent / link).resolve()
        text, directory = source.read_text(), source.parent
    return text, directory.relative_to(ROOT).as_posix()


def on_files(files: Any, config: Any) -> Any:
    """Adds the pictures and the source files that pages link to outside docs/."""
    from mkdocs.structure.files import File

    pages = _pages_that_include()
    added = set()
    for page in [file for file in files if file.is_documentation_page()]:
        text, directory = text_of(Path(page.abs_src_path))
        for link in links(text):
            target, _ = target_of(link, directory) or ("docs", "")
            source = ROOT / target
            if target.startswith("docs/") or target in pages or target in added or not source.is_file():
                continue
            added.add(target)
            if source.suffix in _PICTURES:
                files.append(File.generated(config, f"{SOURCES}/{target}", abs_src_path=str(source)))
            else:
                files.append(File.generated(config, f"{SOURCES}/{target}.md", content=_listing(source)))
    return files


def _listing(source: Path) -> str:
    name = source.relative_to(ROOT).as_posix()
    language = _LANGUAGES.get(source.suffix, "text")
    head = f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n# `{name}`\n\n"
    return f'{head}~~~~{{.{language} linenums="1"}}\n{source.read_text()}\n~~~~\n'


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts included files in their places, and has the links that leave docs/ lead to copies on the site."""
    if page.file.generated_by:
        return markdown
    text, directory = text_of(Path(page.file.abs_src_path))
    if included(markdown) is not None:
        markdown = text
    pages = _pages_that_include()
    here = posixpath.dirname(page.file.src_uri)

    def on_site(match: re.Match[str]) -> str:
        target, fragment = target_of(match[1], directory) or ("", "")
        if not target:
            return match[0]
        source = ROOT / target
        anchor = f"#{fragment}" if fragment else ""
        if target.startswith("docs/"):
            uri = target.removeprefix("docs/")
        elif target in pages:
            uri = pages[target]
        elif source.suffix in _PICTURES:
            uri = f"{SOURCES}/{target}"
        else:
            uri = f"{SOURCES}/{target}.md"
            if fragment and source.is_file():
                anchor = f"#__codelineno-0-{line_of(source, fragment)}"
        return posixpath.relpath(uri, here or ".") + anchor

    parts = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(on_site, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(on_site, markdown[end:])])
