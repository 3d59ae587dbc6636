"""Data frames of a stored chat, through the engine of the database block."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psycopg
import pytest
from converted import START, Export, store, write

from blocks import connector
from flows.errors import ChatUnknown, ServiceFailed
from flows.reports import frames
from flows.tables.relations import CHATS, MESSAGES, SENDERS, STAGE_RUNS, TIMINGS


@pytest.fixture
def filled(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a database with 900 messages of two senders, one of them without a certain instant."""
    monkeypatch.setenv("TDP_DATABASE_URL", database_url)
    monkeypatch.setenv("TDP_HOME", str(tmp_path / "home"))
    known = [(n, n, f"text {n}" if n else "") for n in range(899)]
    store(database_url, write(tmp_path / "1", Export(1, "channel1", "News", known, sender=("user1", "Ann"))))
    store(database_url, write(tmp_path / "2", Export(2, "channel2", "Old news", [(1, 5, "x")], utc=False)))
    yield database_url


def test_messages_have_the_types_that_pandas_users_expect(filled: str) -> None:
    frame = frames.messages()
    assert (list(frame.columns), len(frame)) == (list(MESSAGES), 900)
    types = frame.dtypes
    assert types["text"] == pd.StringDtype(na_value=float("nan"))
    assert types["sent_at"] == pd.DatetimeTZDtype("us", "UTC")
    assert types["sent_local"] == "datetime64[us]"
    assert types["message_id"] == types["reply_to_message_id"] == pd.Int64Dtype()
    assert {types[name].name for name in ("chat_key", "chat_name", "type", "sender_name")} == {"category"}
    assert frame["reply_to_message_id"].isna().all()
    first = frame[(frame["chat_key"] == "channel1") & (frame["message_id"] == 1)].iloc[0]
    assert (first["text"], first["sent_at"]) == ("text 1", pd.Timestamp(START + dt.timedelta(minutes=1)))
    assert frame.loc[frame["message_id"] == 0, "text"].tolist() == [""], "an empty text is not a missing one"
    assert frame.groupby("chat_name", observed=True).size().to_dict() == {"News": 899, "Old news": 1}
    assert frame.set_index("sent_at").resample("1h").size().sum() == 899


def test_chats_times_and_columns_are_chosen(filled: str) -> None:
    some = frames.messages(
        "News", since=START, until=START + dt.timedelta(minutes=10), columns=["text", "message_id"]
    )
    assert list(some.columns) == ["text", "message_id"]
    assert sorted(some["message_id"]) == list(range(10))
    assert len(frames.messages(["News", "channel2"], since="2024-05-01 12:05", until="2024-05-01T12:06")) == 2
    assert len(frames.messages(since=dt.date(2024, 5, 2), until=dt.date(2024, 5, 3), columns="text")) == 179
    with psycopg.connect(filled, autocommit=True) as opened:
        opened.execute("UPDATE chats SET chat_id = 17 WHERE chat_key = 'channel2'")
    assert len(frames.messages(17)) == len(frames.messages([17])) == 1
    assert frames.messages([]).empty, "no chats are not all chats"
    empty = frames.messages(since="2030-01-01")
    assert (len(empty), empty.dtypes["sent_at"]) == (0, pd.DatetimeTZDtype("us", "UTC"))


def test_a_frame_comes_in_chunks(filled: str) -> None:
    with psycopg.connect(filled) as opened:
        opened.execute(
            "INSERT INTO messages (chat_key, message_id, type, text, revision, source_id)"
            " SELECT 'channel3', n, 'message', repeat('word ', 40), '1', 7 FROM generate_series(1, 100000) n"
        )
    chunks = frames.messages(chunksize=30_000)
    sizes = [len(chunk) for chunk in chunks]
    assert sum(sizes) == 100_900
    assert all(30_000 <= size < 60_000 for size in sizes[:-1])
    next(frames.messages(chunksize=10_000))  # one that is not read to its end closes its session
    with psycopg.connect(filled) as opened:
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert opened.execute(f"SELECT count(*) {others}").fetchone() == (0,)


def test_the_other_tables(filled: str) -> None:
    chats = frames.chats()
    assert (list(chats.columns), list(chats["name"])) == (list(CHATS), ["News", "Old news"])
    assert list(frames.chats(columns=["name"]).columns) == ["name"]
    senders = frames.senders("News")
    assert (list(senders.columns), senders["messages"].tolist()) == (list(SENDERS), [899])
    assert list(frames.stage_runs().columns) == list(STAGE_RUNS)
    assert list(frames.timings().columns) == list(TIMINGS)


def test_another_database_can_be_given(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TDP_DATABASE_URL")
    block = connector(filled)
    assert len(frames.messages(database=block)) == 900
    assert len(frames.messages(database=block, columns=["sender_name"])) == 900, "an empty line is a row"
    with pytest.raises(ServiceFailed, match="No services are running"):
        frames.chats()


def test_errors_name_what_is_wrong(filled: str) -> None:
    with pytest.raises(ChatUnknown, match="2 chats"):
        frames.messages("ews")
    with pytest.raises(ValueError, match="messages has no column 'sender'; it has chat_key, "):
        frames.messages(columns=["sender"])
    with pytest.raises(ValueError, match="at least 1"):
        frames.messages(chunksize=0)
    with pytest.raises(ValueError, match="later than"):
        frames.messages(since="2024-05-02", until="2024-05-01")


def test_what_is_slow_to_import_is_imported_only_where_it_is_needed() -> None:
    slow = {"pandas", "pyarrow", "sqlalchemy", "prefect"}
    code = f"import sys, flows.cli.main, flows.reports\nprint({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
