"""The report: every number read from what the run has measured, beside the published ones."""

from .writer import Writer, write_report

__all__ = ["Writer", "write_report"]
