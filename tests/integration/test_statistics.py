"""`tdp stats`: its numbers, its picture, and the views that the Grafana board reads."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chat_tables import run_tdp as run
from converted import Export, store, write
from psycopg.types.json import Jsonb

from flows.errors import ChatUnknown, ExportFailed, PackageMissing, QueryTimedOut
from flows.reports import text

BOARD = Path(__file__).parents[2] / "deployments" / "grafana" / "messages.json"


@pytest.fixture
def filled(database_url: str, tmp_path: Path) -> str:
    """URL of a database with 30 messages of Ann in a channel, and 20 of Bob at unknown instants."""
    ann = Export(
        1, "channel1", "News $_{ $", [(n, 600 * n, "x") for n in range(30)], sender=("user1", "Ann $_{ $2")
    )
    bob = Export(
        2, "user5@user9", "Bob", [(n, n, "x") for n in range(20)], utc=False, sender=("user5", "Bob")
    )
    store(database_url, write(tmp_path / "1", ann))
    store(database_url, write(tmp_path / "2", bob))
    with psycopg.connect(database_url) as opened:
        photo = Jsonb({"photo": "a.jpg", "photo_file_size": 1000})
        opened.execute("UPDATE messages SET media = %s WHERE message_id < 3 AND sender_id = 'user1'", [photo])
        opened.execute("UPDATE messages SET type = 'service', media = NULL WHERE message_id = 0")
    return database_url


def numbers(url: str, *options: object) -> dict[str, Any]:
    done = run(url, "stats", "--json", *options)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_messages_are_counted(filled: str) -> None:
    found = numbers(filled)
    assert (found["messages"], found["service"], found["chats"], found["undated"]) == (48, 2, 2, 19)
    assert (
        sum(day["messages"] for day in found["days"])
        == sum(hour["messages"] for hour in found["hours"])
        == 29
    )
    assert found["days"][-1]["growth"] == 29
    assert [(each["sender_id"], each["messages"]) for each in found["senders"]] == [
        ("user1", 29),
        ("user5", 19),
    ]
    assert found["media"] == [{"kind": "photo", "messages": 2, "size_bytes": 2000}]
    some = numbers(filled, "--chat", "News", "--until", "2024-05-02T00:00:00+00:00")
    assert (some["messages"], len(some["days"])) == (1, 1)


def test_the_page_shows_months_hours_senders_and_media(filled: str) -> None:
    page = run(filled, "stats").stdout
    assert "48 messages in 2 chats" in page
    assert re.search(r"^2024-05 +29 +█{40}$", page, re.MULTILINE)
    assert re.search(r"^photo \(2\.0.kB\) +2", page, re.MULTILINE)
    assert run(filled, "stats", "--since", "2030-01-01", "--chat", "News").stdout == "No messages.\n"
    assert isinstance(run(filled, "stats", "--chat", "x").exception, ChatUnknown)


def test_messages_without_a_certain_instant_are_named_and_never_silently_left_out(
    filled: str, tmp_path: Path
) -> None:
    left_out = "19 messages have no certain instant, and no day and hour here."
    page = run(filled, "stats").stdout
    assert left_out in page
    assert "*Time zone of HTML exports*" in page
    assert left_out in run(filled, "stats", "--since", "2024-05-01").stdout
    assert run(filled, "stats", "--since", "2030-01-01").stdout == "No messages.\n"
    assert "no certain instant" not in run(filled, "stats", "--chat", "News").stdout
    page = run(filled, "stats", "--chat", "Bob").stdout
    assert "19 messages have no certain instant: days and hours are wall-clock time of the exporters." in page
    assert re.search(r"^Month \(wall clock\) .*\n2024-05 +19 ", page, re.MULTILINE)
    assert re.search(r"^Hour \(wall clock\) (.*\n){13}12 +19 ", page, re.MULTILINE)
    assert "\nfrom " not in page
    picture = tmp_path / "bob.svg"
    assert run(filled, "stats", "--chat", "Bob", "--picture", picture).exit_code == 0
    assert "(wall clock)" in picture.read_text()
    with psycopg.connect(filled) as opened:
        opened.execute("UPDATE messages SET sent_local = NULL WHERE sent_at IS NULL")
    assert "\nHour" not in run(filled, "stats", "--chat", "Bob").stdout


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose time is nine hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_pages_and_options_are_in_utc_on_every_machine(filled: str) -> None:
    assert "\nfrom 2024-05-01 12:00:00 UTC to 2024-05-13 14:00:00 UTC\n" in run(filled, "stats").stdout
    assert numbers(filled, "--until", "2024-05-02", "--chat", "channel1")["messages"] == 1
    assert "2024-05-01 22:00:00 UTC" in run(filled, "search", "x", "--until", "2024-05-02").stdout
    exported = run(filled, "export", "-", "--chat", "channel1", "--until", "2024-05-02").stdout
    assert exported.count("\n") == 3
    one = run(filled, "stats", "--until", "2024-05-02", "--chat", "channel1").stdout
    assert one.startswith("1 message in 1 chat, ")


def test_a_period_chooses_the_same_messages_as_an_export_of_it(filled: str) -> None:
    period = ["--since", "2024-05-01T12:05", "--until", "2024-05-01T22:00:01"]
    found = numbers(filled, *period)
    exported = run(filled, "export", "-", *period).stdout
    assert found["messages"] == exported.count("\n") - 1 == 16
    assert (found["undated"], found["media"]) == (15, [{"kind": "photo", "messages": 1, "size_bytes": 1000}])
    senders = run(filled, "export", "-", "--what", "senders", "--format", "jsonl", *period).stdout
    counts = {each["sender_id"]: each["messages"] for each in map(json.loads, senders.splitlines())}
    assert counts == {each["sender_id"]: each["messages"] for each in found["senders"]}
    with psycopg.connect(filled) as opened:
        kinds = opened.execute("SELECT kind, messages, size_bytes FROM media_kinds").fetchall()
    assert [tuple(each.values()) for each in numbers(filled)["media"]] == kinds


def test_media_without_a_file_have_their_own_kinds(filled: str) -> None:
    members = {
        "invoice": "invoice_information",
        "giveaway": "giveaway_information",
        "giveaway_results": "giveaway_results",
        "game": "game_title",
        "todo_list": "todo_list",
        "paid_media": "paid_stars_amount",
        "location": "place_name",
        "contact": "contact_information",
        "self_destructing": "self_destructing",
        "other": "unheard_of",
    }
    with psycopg.connect(filled) as opened:
        for number, member in enumerate(members.values(), 3):
            opened.execute(
                "UPDATE messages SET media = %s WHERE message_id = %s AND sender_id = 'user1'",
                [Jsonb({member: 250}), number],
            )
        kinds = opened.execute("SELECT kind, messages FROM media_kinds ORDER BY kind").fetchall()
    assert dict(kinds) == dict.fromkeys(members, 1) | {"photo": 2}
    assert {each["kind"]: each["messages"] for each in numbers(filled)["media"]} == dict(kinds)


def test_a_sender_has_the_name_of_the_latest_message(filled: str) -> None:
    with psycopg.connect(filled) as opened:
        opened.execute("UPDATE messages SET sender_name = 'Zoe' WHERE message_id = 5 AND sender_id = 'user1'")
        opened.execute("UPDATE messages SET sender_name = 'Al' WHERE message_id = 29 AND sender_id = 'user1'")
    assert numbers(filled)["senders"][0] == {"name": "Al", "sender_id": "user1", "messages": 29}
    senders = run(filled, "export", "-", "--what", "senders", "--format", "jsonl").stdout
    assert '"sender_name":"Al","messages":29,"chats":1' in senders
    with psycopg.connect(filled) as opened:
        seen = opened.execute(
            "SELECT sender_name, messages FROM senders WHERE sender_id = 'user1'"
        ).fetchall()
    assert seen == [("Al", 29)]


def test_a_size_that_no_export_has_is_not_printed(filled: str) -> None:
    with psycopg.connect(filled) as opened:
        opened.execute('UPDATE messages SET media = \'{"photo": "a.jpg"}\' WHERE media IS NOT NULL')
    assert re.search(r"^photo +2", run(filled, "stats").stdout, re.MULTILINE)
    assert numbers(filled)["media"] == [{"kind": "photo", "messages": 2, "size_bytes": None}]


def test_senders_of_one_name_have_a_row_each(database_url: str, tmp_path: Path) -> None:
    for number, count in ((1, 9), (2, 5)):
        messages = [(n, n, "x") for n in range(count)]
        sender = (f"user{number}", "Ann")
        store(
            database_url,
            write(
                tmp_path / str(number), Export(number, f"channel{number}", "News", messages, sender=sender)
            ),
        )
    page = run(database_url, "stats").stdout
    assert re.findall(r"^Ann +(\d+)", page, re.MULTILINE) == ["9", "5"]


def test_dollar_signs_in_names_are_not_formulas(filled: str, tmp_path: Path) -> None:
    out = tmp_path / "news.svg"
    done = run(filled, "stats", "--chat", "channel1", "--picture", out)
    assert (done.exit_code, done.stderr) == (0, f"{out}: {text.size(out.stat().st_size)}\n")
    shown = out.read_text()
    assert "<!-- News $_{ $ -->" in shown
    assert "<!-- Ann $_{ $2 -->" in shown


def test_a_picture_says_what_it_cannot_show(filled: str, tmp_path: Path) -> None:
    with psycopg.connect(filled) as opened:
        opened.execute("UPDATE messages SET sender_name = %s WHERE sender_id = 'user1'", ["\u1b83"])
        opened.execute("UPDATE chats SET name = %s WHERE chat_key = 'channel1'", ["A\n\x1b\u202eb"])
        opened.execute("UPDATE messages SET media = NULL")
        opened.execute("DELETE FROM messages WHERE message_id > 1")
    out = tmp_path / "one.svg"
    done = run(filled, "stats", "--chat", "channel1", "--picture", out)
    shown = out.read_text()
    assert all(f"<!-- {each} -->" in shown for each in ("A b", "user1", "2024-05-01", "No media", "1"))
    assert "<!-- 0.5 -->" not in shown
    assert "no font of this machine has: \u1b83 Install" in done.stderr
    assert "<!-- Characters that no font of this machine has are left out -->" in shown
    assert run(filled, "stats", "--since", "2030-01-01", "--picture", out, "--force").exit_code == 0
    assert out.read_text().count("<!-- No messages -->") == 3


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_drawn(filled: str, tmp_path: Path, suffix: str, begin: bytes) -> None:
    out = tmp_path / f"all.{suffix}"
    assert run(filled, "stats", "--picture", out).exit_code == 0
    assert out.read_bytes().startswith(begin)
    assert isinstance(run(filled, "stats", "--picture", out).exception, ExportFailed)
    assert run(filled, "stats", "--picture", out, "--force", "--since", "2030-01-01").exit_code == 0
    assert list(tmp_path.glob(".*")) == []


def test_bad_requests_are_reported(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(filled, "stats", "--picture", tmp_path / "all.txt").exit_code == 2
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    done = run(filled, "stats", "--picture", tmp_path / "all.png")
    assert str(done.exception).endswith("-m pip install matplotlib")
    assert isinstance(done.exception, PackageMissing)
    with psycopg.connect(filled) as opened:
        opened.execute("ALTER TABLE messages RENAME TO kept")
        opened.execute("CREATE VIEW messages AS SELECT kept.* FROM kept, pg_sleep(30)")
    assert isinstance(run(filled, "stats", "--timeout", "0.2").exception, QueryTimedOut)
    slow = ["stats", "--timeout", "0.2", "--picture"]
    assert isinstance(run(filled, *slow, tmp_path / "all.png").exception, PackageMissing)
    monkeypatch.undo()
    assert run(filled, *slow, tmp_path / "all.txt").exit_code == 2
    (tmp_path / "all.png").touch()
    assert isinstance(run(filled, *slow, tmp_path / "all.png").exception, ExportFailed)


def test_the_statements_of_the_dashboard_run(filled: str) -> None:
    board = json.loads(BOARD.read_text())
    statements = [target["rawSql"] for panel in board["panels"] for target in panel["targets"]]
    statements += [
        variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"
    ]
    assert len(statements) > 8
    with psycopg.connect(filled) as opened:
        for statement in statements:
            asked = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN '2020-01-01' AND '2030-01-01'", statement)
            asked = asked.replace("${chat:sqlstring}", "'channel1', 'user5@user9'")
            assert "$" not in asked, asked
            rows = opened.execute(asked.encode()).fetchall()
            assert rows, asked
