"""One self-contained HTML page of what a run left behind, made from its manifest and records alone."""

from pellucid.report._page import write_report

__all__ = ["write_report"]
