"""Measuring what things cost: the tools (`measure`, `report`), row 0 (`textbook`) and the subjects of `benchmark.py`."""

from metacl.benchmarking.measure import Case, Result, Row, interleaved, measure, peak_bytes, slope
from metacl.benchmarking.report import result_table, write_result

__all__ = ["Case", "Result", "Row", "interleaved", "measure", "peak_bytes", "result_table", "slope", "write_result"]
