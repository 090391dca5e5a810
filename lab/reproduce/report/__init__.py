"""The report: measured numbers, and one template that puts them into words."""

from .numbers import measured_numbers
from .render import write_report

__all__ = ["measured_numbers", "write_report"]
