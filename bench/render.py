"""``python -m bench render``: every table of the documents from the committed results, without measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import analysis_table, clusters, files, load, roofline, rows_table, tables, vllm_serving
from bench.accuracy import published as published_accuracy
from bench.devices import cpu
from bench.end_to_end import table as end_to_end
from bench.files import ROOT
from bench.markdown import put_between

BENCHMARKS, README, VLLM = ROOT / "docs" / "benchmarks.md", ROOT / "README.md", ROOT / "docs" / "vllm.md"
ACCURACY, DISTRIBUTED = ROOT / "docs" / "accuracy.md", ROOT / "docs" / "distributed.md"
# The processor of the README's table.
SPEED_RESULT = "cpu-intel-r-xeon-r-processor-2-80ghz.json"


def rendered() -> dict[tuple[str, Path], str]:
    """The tables, by their markers and documents."""
    return {
        ("cpu table", BENCHMARKS): _tables("cpu-*.json", cpu.table, "make bench", titled=True),
        ("gpu table", BENCHMARKS): _tables("cuda-*.json", _cuda_table, "make gpu", titled=True),
        ("end-to-end table", BENCHMARKS): _tables("end-to-end-*.json", end_to_end.summary, "make bench-e2e"),
        ("analysis table", BENCHMARKS): _tables("analysis.json", analysis_table.table, "make bench-analysis"),
        ("accuracy table", ACCURACY): _tables("accuracy.json", _accuracy_table, "make bench-accuracy"),
        ("published accuracy table", ACCURACY): published_accuracy.table(),
        ("load table", BENCHMARKS): _tables("load-*.json", load.table, "make bench-load", titled=True),
        ("clusters table", BENCHMARKS): _tables(
            "clusters-*.json", clusters.table, "python -m bench clusters", titled=True
        ),
        ("rows table", DISTRIBUTED): _tables(
            "rows-*.json", rows_table.with_figure, "python -m bench rows", titled=True
        ),
        ("collectives table", DISTRIBUTED): _tables(
            "rows-*.json", rows_table.photographs, "python -m bench rows", titled=True
        ),
        ("vllm table", VLLM): _tables("vllm-*.json", vllm_serving.table, "make bench-vllm", titled=True),
        ("gpu prediction table", BENCHMARKS): roofline.table(),
        ("published gpu times table", BENCHMARKS): roofline.published_table(),
        ("speed table", README): _tables(SPEED_RESULT, tables.speed, "make bench"),
    }


def _tables(pattern: str, table: Callable[[dict[str, Any]], str], command: str, *, titled: bool = False) -> str:
    """The tables of all machines that there are results of, under the names of these."""
    shown = [
        f"**{result['machine']['processor']}**\n\n{table(result)}" if titled else table(result)
        for result in files.read(pattern)
    ]
    return "\n\n".join(shown) or f"Not measured yet: there is no result of `{command}`."


def _cuda_table(result: dict[str, Any]) -> str:
    from bench.devices import cuda

    return cuda.table(result)


def _accuracy_table(result: dict[str, Any]) -> str:
    from bench.accuracy import table  # its methods need transformers

    return f"{table.table(result)}\n\n![Scores against the share of the tokens](../bench/results/accuracy.png)"


def write() -> None:
    """Puts every table in its place.

    Raises:
        ValueError: where a marker is missing.
    """
    for (name, document), table in rendered().items():
        put_between(name, table, document)


def main(arguments: Sequence[str]) -> int:
    """Writes all tables."""
    write()
    return 0
