"""Batches are cut round-robin between uploaders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.ledger.intake import cut


def files(**counts: int) -> list[tuple[int, int | None]]:
    """Return sources in the order of arrival: all of one uploader, then all of the next."""
    owners = [owner for owner, number in enumerate(counts.values()) for _ in range(number)]
    return list(enumerate(owners))


def owners(batches: list[list[int]], sources: list[tuple[int, int | None]]) -> list[str]:
    of = dict(sources)
    return ["".join("abcdefgh"[of[source] or 0] for source in batch) for batch in batches]


def test_a_few_files_do_not_wait_for_many_of_another() -> None:
    sources = files(anna=45, boris=5)
    batches = owners(cut(sources, 10), sources)
    assert batches == ["a" * 10, "bbbbb" + "a" * 5, "a" * 10, "a" * 10, "a" * 10]


def test_batches_alternate() -> None:
    sources = files(anna=30, boris=30)
    assert [batch[0] for batch in owners(cut(sources, 10), sources)] == list("ababab")


def test_many_uploaders_of_one_file_share_batches() -> None:
    sources = files(**{str(number): 1 for number in range(8)})
    assert owners(cut(sources, 5), sources) == ["abcde", "fgh"]


def test_files_of_folders_are_cut_as_they_came() -> None:
    assert cut([(number, None) for number in range(25)], 10) == [
        list(range(10)),
        list(range(10, 20)),
        list(range(20, 25)),
    ]


@given(st.lists(st.none() | st.integers(1, 5)), st.integers(1, 7))
def test_every_file_is_in_one_batch_and_batches_are_full(uploaders: list[int | None], size: int) -> None:
    batches = cut(list(enumerate(uploaders)), size)
    assert sorted(source for batch in batches for source in batch) == list(range(len(uploaders)))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    of: dict[int | None, list[int]] = {}
    for source in (source for batch in batches for source in batch):
        of.setdefault(uploaders[source], []).append(source)
    assert all(sources == sorted(sources) for sources in of.values())
