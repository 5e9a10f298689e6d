"""Scoring: one row per case and label, a CSV table, and a summary that says its conventions."""

from medseg3d.scoring.case import Row, score_case
from medseg3d.scoring.summary import Summary, summarize, summary_table, write_json
from medseg3d.scoring.table import read_csv, write_csv

__all__ = [
    "Row",
    "Summary",
    "read_csv",
    "score_case",
    "summarize",
    "summary_table",
    "write_csv",
    "write_json",
]
