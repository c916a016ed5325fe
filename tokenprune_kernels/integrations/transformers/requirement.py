"""The version of transformers that the integration needs."""

from __future__ import annotations


def check_version() -> None:
    """Refuses a transformers that is missing or too old: 5.19 is the first in which models take encoder outputs.

    Raises:
        ImportError: says which version was expected and which one there is.
    """
    try:
        from packaging.version import Version  # transformers depends on it
        from transformers import __version__ as version
    except ImportError as error:
        raise _refusal("none") from error
    if Version(version).release < (5, 19):
        raise _refusal(version)


def _refusal(got: str) -> ImportError:
    return ImportError(f"tokenprune_kernels.integrations.transformers: expected transformers >= 5.19, got {got}")
