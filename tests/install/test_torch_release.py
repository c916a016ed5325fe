"""Versions of torch: which one is supported, and which one an extension fits."""

from pathlib import Path

import pytest
import torch

from tests.support.subprocess import python
from tokenprune_kernels import torch_release
from tokenprune_kernels.backends import native

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
def test_every_build_of_a_release_belongs_to_it_alone(suffix):
    version = f"2.13.0{suffix}"
    assert torch_release.is_of(version, "2.13.0")
    for other in ("2.12.0", "2.12.9", "2.13.1", "2.14.0", "3.13.0"):
        assert not torch_release.is_of(version, other)


def test_a_version_of_two_numbers_is_a_release():
    assert torch_release.is_of("2.13", "2.13.0")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_extension_loads_beside_every_build_of_its_release(monkeypatch, suffix):
    release = native.build_info()["torch"]
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(release + suffix))
    extension, reason = native._load()
    assert (extension is not None, reason) == (True, "")


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
