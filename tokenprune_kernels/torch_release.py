"""Which release of torch a version string belongs to. ``setup.py`` runs this file too, by its path."""

from torch.torch_version import TorchVersion

OLDEST = "2.11"


def is_at_least(version: str, release: str) -> bool:
    """Whether a version is of this release or of a newer one.

    Pre-releases, development builds and builds from source count as the release that they lead to: their binary
    interface is the one of its branch.
    """
    return TorchVersion(version) >= f"{release}.dev0"


def is_of(version: str, release: str) -> bool:
    """Whether a version is some build of this release, ``"2.13.0"`` for example."""
    *head, last = release.split(".")
    return is_at_least(version, release) and not is_at_least(version, ".".join([*head, str(int(last) + 1)]))


def check_supported(version: str) -> None:
    """Raises ImportError if this torch is too old."""
    if not is_at_least(version, OLDEST):
        raise ImportError(f"tokenprune_kernels: expected torch {OLDEST} or newer, got torch {version}")
