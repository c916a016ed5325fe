"""Code in a Python process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import tokenprune_kernels

ROOT = Path(tokenprune_kernels.__file__).parent.parent


def python(code, path=ROOT, **environment):
    """Runs code in a fresh interpreter that finds the package under `path`."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
