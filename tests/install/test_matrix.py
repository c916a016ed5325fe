"""The tables of docs/install.md are what was tried, and so are the releases of torch that the package names."""

import copy
import re
import zipfile

import pytest

pytest.importorskip("bench", reason="the benchmarks are only in the source tree")

from bench.markdown import between
from tests.install import matrix
from tests.install.paths import PATHS
from tokenprune_kernels import torch_release

pytestmark = pytest.mark.skipif(not matrix.PAGE.exists(), reason="needs the source tree, with its pages")


@pytest.fixture
def results():
    return matrix.read()


@pytest.mark.parametrize("name", ["install table", "python table"])
def test_the_page_shows_the_results(results, name):
    assert between(name, matrix.PAGE) == matrix.tables(results)[name]


def test_the_package_names_the_newest_torch_beside_which_the_wheel_passed(results):
    assert matrix.newest_tried(results) == torch_release.NEWEST_TRIED


def test_the_oldest_torch_that_the_package_asks_for_was_tried(results):
    passed = [cell["torch"] for cell in results["cells"] if (cell["path"], cell["outcome"]) == ("wheel", "passed")]
    assert f"{torch_release.OLDEST}.0" in passed


def test_one_wheel_was_tried_beside_every_torch(results):
    wheels = {
        cell["wheel"] for cell in results["cells"] if cell["path"] == "wheel" and cell["outcome"] != "not tried here"
    }
    assert len(wheels) == 1


def test_every_cell_says_how_it_ended(results):
    assert results["cells"]
    for cell in results["cells"]:
        assert cell["path"] in PATHS
        assert cell["outcome"] in ("passed", "refused", "failed", "not tried here")
        assert re.fullmatch(r"[^\n]{1,200}", cell["detail"])
        assert "/" not in cell["detail"], "no path of the machine"
        if cell["outcome"] in ("passed", "failed"):
            assert re.fullmatch(r"([\d,]+ of )?[\d,]+ tests", cell["detail"])


def test_another_result_is_another_table(results):
    changed = copy.deepcopy(results)
    cell = next(cell for cell in changed["cells"] if cell["path"] == "wheel" and cell["python"] == matrix.PYTHON)
    cell |= {"outcome": "failed", "detail": "1 of 2 tests"}
    assert matrix.tables(changed)["install table"] != matrix.tables(results)["install table"]
    assert "failed: 1 of 2 tests" in matrix.tables(changed)["install table"]


def test_the_digest_is_of_what_is_in_the_wheel(tmp_path):
    digests = []
    for number, text in enumerate(["one", "one", "two"]):
        path = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(path, "w") as files:
            files.writestr("package/module.py", text)
            files.writestr("package.dist-info/RECORD", str(number))
        digests.append(matrix.digest_of(path))
    assert digests[0] == digests[1] != digests[2]
