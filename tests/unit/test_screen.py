"""The console of `tdp` shows control characters of texts, and every module prints through it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, Group
from rich.text import Text

from flows.cli import screen
from flows.cli.pages import plain_table
from flows.cli.screen import Screen
from flows.reports.visible import visible, visible_lines

CLI = Path(screen.__file__).parent


def printed(value: object, width: int = 60, **options: bool) -> str:
    out = io.StringIO()
    Screen(file=out, width=width, **options).print(value)
    return out.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J\x07b", "a\u241b[2J\u2407b"),
        ("a\x9b31m\x7fb", "a\ufffd31m\u2421b"),
        ("a\u202egnp.\u2066exe", "a\ufffdgnp.\ufffdexe"),
        ("file-\udcff.zip", "file-\ufffd.zip"),
        ("a\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h", "a\u240ab\u240dc\u240bd\u240ce\ufffdf\u2424g\u2424h"),
        ("tab\tשלום \u200e é 🎉", "tab\tשלום \u200e é 🎉"),
    ],
)
def test_control_characters_become_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible_lines(text) == shown.replace("\u240a", "\n")


def test_colours_of_our_own_are_kept_and_those_of_texts_are_not() -> None:
    line = printed(Text.assemble(("bold", "bold"), " \x1b[31m"), force_terminal=True)
    assert line == "\x1b[1mbold\x1b[0m \u241b[31m\n"
    assert printed("plain \x1b[31m", force_terminal=True, highlight=False) == "plain \u241b[31m\n"


def test_a_text_is_one_line_and_a_group_is_several() -> None:
    forged = "name\nCOMPLETED\u2028\x85"
    table = plain_table(["A"])
    table.add_row(forged)
    shown = "name\u240aCOMPLETED\u2424\ufffd"
    assert printed(forged) == printed(Text(forged)) == f"{shown}\n"
    assert printed(Group(Text(forged), Text(), table)).splitlines() == [shown, "", "A" + " " * 15, shown]


def test_a_column_is_as_wide_as_what_is_printed() -> None:
    table = plain_table(["A", "B"])
    table.add_row("\x1b\x1b\x1bname", Text("\x1b]0;x"))
    table.add_row("other", "end")
    assert printed(table).splitlines()[1:] == ["␛␛␛name ␛]0;x", "other   end  "]


def test_every_module_prints_through_the_screen() -> None:
    """`tdp env` is for the shell, and the timeline is a picture."""
    allowed = {"screen.py", "main.py", "reports.py"}
    for path in CLI.glob("*.py"):
        source = path.read_text()
        if path.name != "screen.py":
            assert f"import {Console.__name__}" not in source.replace(", ", "\nimport "), path
            assert "    print(" not in source, path
        assert path.name in allowed or "typer.echo" not in source, path
