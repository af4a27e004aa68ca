"""Sections of the report: functions from a report to blocks."""
