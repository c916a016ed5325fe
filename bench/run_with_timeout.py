"""Runs a command that may take too long, or fail, without harm to this process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from bench.files import ROOT


def run_with_timeout(seconds: float, command: Sequence[str]) -> str:
    """Returns what a command prints; kills it and its children when the time is over.

    Raises:
        subprocess.SubprocessError: when it takes longer, or fails.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise subprocess.SubprocessError(f"exit code {process.returncode}, {last}")
    return output
