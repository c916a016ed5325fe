"""The demo and the benchmarks; not part of the wheel."""
