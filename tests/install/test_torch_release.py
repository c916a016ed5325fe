"""Which versions of torch are supported."""

from pathlib import Path

import pytest

from tests.support.subprocess import python
from tokenprune_kernels import torch_release

SUFFIXES = [
    "",
    "+cpu",
    "+cu130",
    ".post2",
    ".post300+cu130",
    ".dev20261128",
    ".dev20261128+cpu",
    "a0+git1a2b3c4",
    "rc1",
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_build_of_the_oldest_release_is_supported_and_none_of_the_one_before(suffix):
    torch_release.check_supported(f"2.11.0{suffix}")
    torch_release.check_supported(f"2.100.0{suffix}")
    for version in (f"2.10.0{suffix}", f"2.10.9{suffix}", f"2.9.1{suffix}", f"1.99.0{suffix}"):
        with pytest.raises(ImportError) as raised:
            torch_release.check_supported(version)
        assert str(raised.value) == f"tokenprune_kernels: expected torch 2.11 or newer, got torch {version}"


def test_the_oldest_release_is_that_of_the_metadata():
    assert f'"torch>={torch_release.OLDEST}"' in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_too_old_a_torch_is_refused_at_import():
    result = python("import torch; torch.__version__ = '2.10.1+cu130'; import tokenprune_kernels")
    line = "ImportError: tokenprune_kernels: expected torch 2.11 or newer, got torch 2.10.1+cu130"
    assert result.stderr.splitlines()[-1] == line
