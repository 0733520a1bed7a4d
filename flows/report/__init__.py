"""The report of a run: one static page that shows what happened to the data, and why."""

from flows.report.context import ReportContext
from flows.report.render import write_report

__all__ = ["ReportContext", "write_report"]
