"""Which torch the package runs beside. ``setup.py`` runs this file too, by its path."""

from torch.torch_version import TorchVersion

OLDEST = "2.11"
NEWEST_TRIED = "2.15"  # newer ones load too: torch keeps its stable interface


def is_at_least(version: str, release: str) -> bool:
    """Whether a version is of this release or of a newer one.

    Pre-releases, development builds and builds from source count as the release that they lead to.
    """
    return TorchVersion(version) >= f"{release}.dev0"


def check_supported(version: str) -> None:
    """Raises ImportError if this torch is too old."""
    if not is_at_least(version, OLDEST):
        raise ImportError(f"tokenprune_kernels: expected torch {OLDEST} or newer, got torch {version}")
