"""The arithmetic of the benchmarks' frame, and of the ideal with which they are compared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(autouse=True)
def _bench_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)


def test_a_row_has_whether_it_reaches_its_target() -> None:
    from frame import row

    assert row("speed", 0.6, "×", least=0.6).met is True
    assert row("speed", 0.59, "×", least=0.6).met is False
    assert row("peak", 300, "MB", most=300).met is True
    assert row("peak", 301, "MB", most=300).target == "≤ 300"
    assert row("no target", 1, "s", cpu=2.0).met is None


def test_contenders_take_turns_and_their_medians_are_compared() -> None:
    from frame import Cost, in_turns, ratio

    order: list[str] = []
    given = {"ours": iter([9.0, 1.0, 2.0]), "theirs": iter([4.0, 8.0, 6.0])}

    def contender(name: str) -> Cost:
        order.append(name)
        return Cost(seconds := next(given[name]), 2 * seconds)

    costs = in_turns(3, {name: lambda name=name: contender(name) for name in given})
    assert order == ["ours", "theirs"] * 3
    assert costs == {"ours": Cost(2.0, 4.0), "theirs": Cost(6.0, 12.0)}
    assert ratio(costs["ours"], costs["theirs"])["by_cpu"] == 3.0


def test_the_cost_of_a_process_excludes_other_processes() -> None:
    from frame import process_cost

    cost, output = process_cost([sys.executable, "-c", "held = bytearray(300_000_000); print('done')"])
    assert output == "done\n"
    assert cost.peak_mb > 290
    assert cost.cpu > 0
    with pytest.raises(subprocess.CalledProcessError):
        process_cost([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize(("name", "seconds"), [("W1", 11.8), ("W2", 10.25)])
def test_the_ideal_of_a_workload(name: str, seconds: float) -> None:
    from bench_scheduling import WORKLOADS, ideal

    assert ideal(*WORKLOADS[name]) == pytest.approx(seconds)


def test_generated_exports_have_the_requested_size_and_are_valid(tmp_path: Path) -> None:
    import json

    from material import write_json

    count = write_json(tmp_path / "result.json", 500_000)
    found = json.loads((tmp_path / "result.json").read_bytes())["messages"]
    assert (tmp_path / "result.json").stat().st_size == pytest.approx(500_000, rel=0.02)
    assert [message["id"] for message in found] == list(range(1, count + 1))


def test_the_results_of_a_part_replace_those_kept_before(tmp_path: Path) -> None:
    import results

    kept = tmp_path / "RESULTS.md"
    kept.write_text("# Results\n\nWhat it is.\n")
    for figure in ("1 s", "2 s"):
        for part in ("store", "convert"):
            results.keep(part, ["make bench", "a machine"], [("speed", figure, "")], kept)
    text = kept.read_text()
    assert text.startswith("# Results\n\nWhat it is.\n\n## convert\n\n`make bench`  \na machine\n\n| what |")
    assert text.count("| speed | 2 s |  |") == text.count("## ") == 2
    assert "1 s" not in text
    assert text.endswith("|\n")
