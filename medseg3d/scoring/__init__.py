"""Scoring: one row per case and label, a table, and a summary that says its conventions."""

from medseg3d.scoring.case import Row, score_case
from medseg3d.scoring.columns import Column
from medseg3d.scoring.statistics import Summary, summarize
from medseg3d.scoring.summary import column_facts, summary_table, write_json
from medseg3d.scoring.table import Layout, expect_format, read_table, score_names, write_table

__all__ = [
    "Column",
    "Layout",
    "Row",
    "Summary",
    "column_facts",
    "expect_format",
    "read_table",
    "score_case",
    "score_names",
    "summarize",
    "summary_table",
    "write_json",
    "write_table",
]
