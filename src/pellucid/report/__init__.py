"""The report: a self-contained HTML page about a run, built from the manifest and records in its save folder."""

from pellucid.report._page import write_report

__all__ = ["write_report"]
