"""Files that are made from Arrow record batches."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pyarrow as pa

from flows.tables.formats import WRITERS
from flows.tables.orders import Format


def test_a_cell_of_excel_holds_as_many_units_of_utf_16_as_excel_reads(tmp_path: Path) -> None:
    texts = ["x" * 32_767, "🎉" * 16_383, "🎉" * 16_384, "a" + "🎉" * 16_384]
    batch = pa.RecordBatch.from_pydict({"text": texts})
    write_file, _ = WRITERS[Format.xlsx]
    with write_file(tmp_path / "all.xlsx", "messages", batch.schema) as write:
        assert write(batch) == 2
    sheet = openpyxl.load_workbook(tmp_path / "all.xlsx").active
    assert sheet is not None
    cells = [row[0].value for row in sheet.iter_rows(min_row=2)]
    assert cells == [*texts[:2], "🎉" * 16_383, "a" + "🎉" * 16_383]
