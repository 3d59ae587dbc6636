"""Formatting of figures and tables."""

from __future__ import annotations

import pytest

from flows.reports.text import markdown_table


@pytest.mark.parametrize(
    ("cells", "rule"),
    [
        (["1,234", "–"], "---:"),
        (["12.5%", "0.42 s", "12 min 04 s"], "---:"),
        (["20.0 MB"], "---:"),
        (["0009 cut off.zip", "1"], "---"),
        (["53 per second"], "---"),
        (["–", "batch_000001"], "---"),
    ],
)
def test_columns_of_figures_are_right_aligned(cells: list[str], rule: str) -> None:
    lines = markdown_table(["Column"], [[cell] for cell in cells]).splitlines()
    assert lines[1] == f"| {rule} |"


def test_figures_have_no_line_breaks_and_texts_may() -> None:
    assert markdown_table(["A", "B"], [["12 min 04 s", "took 12 s"]]).endswith(
        "| 12\xa0min\xa004\xa0s | took 12 s |"
    )
