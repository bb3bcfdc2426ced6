"""A sweep's answers as a table in the terminal and as a page with figures."""

from coinfer_ray.report.page import write_page
from coinfer_ray.report.results import SweepResults, open_results, read_sweep
from coinfer_ray.report.table import summary_table

__all__ = ["SweepResults", "open_results", "read_sweep", "summary_table", "write_page"]
