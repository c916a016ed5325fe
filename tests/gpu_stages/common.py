"""What the tests of the stages share."""

import time
from pathlib import Path


def assert_has_ended(process):
    """Waits a little for a killed process to end. One that nobody has waited for is a zombie."""
    stat = Path("/proc") / str(process) / "stat"
    for _ in range(30):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {process} runs on")
