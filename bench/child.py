"""Measurements in a process of their own, which can be stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def output_within(seconds: float, command: Sequence[str]) -> str:
    """What a command prints; it and all its children are ended after so many seconds.

    Raises:
        subprocess.SubprocessError: when it takes longer, or fails.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise subprocess.SubprocessError(f"exit code {process.returncode}, {last}")
    return output
