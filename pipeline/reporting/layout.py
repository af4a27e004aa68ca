"""Sections as plain nested values with numbered figures and tables, the same for every renderer."""

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.reporting.blocks import Figure, Figures, Section, Table


def figures_of(sections: Sequence[Section]) -> Iterator[Figure]:
    """Give all figures in the order of the report."""
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Figures):
                yield from block.figures


def tables_of(sections: Sequence[Section]) -> Iterator[Table]:
    """Give all tables in the order of the report."""
    for section in sections:
        yield from (block for block in section.blocks if isinstance(block, Table))


def lay_out(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Turn sections into lists, dictionaries and texts.

    Returns
    -------
    list
        One dictionary for each section, its fields those of `Section` and its blocks those of `blocks`; figures and
        tables get a ``label`` (``Figure 3``) that counts through the whole report.
    """
    figures, tables = 0, 0
    laid: list[dict[str, Any]] = []
    for number, section in enumerate(sections):
        plain = section.model_dump(mode="json")
        plain["number"] = number
        for block in plain["blocks"]:
            if block["kind"] == "table":
                tables += 1
                block["label"] = f"Table {tables}"
            for figure in block.get("figures", ()):
                figures += 1
                figure["label"] = f"Figure {figures}"
        laid.append(plain)
    return laid
