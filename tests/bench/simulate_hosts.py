"""What limits 10, 100 or 1,000 worker hosts: the pipeline with fan_out=work-pool as a network of queues.

    .venv/bin/python tests/bench/simulate_hosts.py

A batch in flight asks the Prefect API, waits for a worker's next look, starts a process on a core, goes
through the three lanes and is seen by its parent's next look. Constants are those that `make hosts` measures;
how far the figures can be trusted: deployments/SCALING.md.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import deque
from dataclasses import dataclass, replace

#: CPU seconds of a batch: its flow process; the Prefect API for it. Requests and connections of a batch.
START_CPU, API_CPU, REQUESTS, CONNECTIONS = 4.0, 0.35, 55, 3
#: Seconds between two looks of a worker for new runs, and of a parent for ended ones.
WORKER_LOOKS, PARENT_LOOKS = 2.0, 1.0


@dataclass(frozen=True)
class Case:
    """Hosts with ``cores`` each; seconds of a batch in extract, convert and store; slots of store."""

    hosts: int
    stages: tuple[float, float, float]
    window: int = 24
    stores: int = 5
    cores: float = 4
    apis: int = 1
    batches: int = 2000


class Station:
    """A queue in order of arrival in front of ``servers``."""

    def __init__(self, name: str, servers: int) -> None:
        self.name, self.servers, self.free = name, servers, servers
        self.queue: deque[tuple[int, int]] = deque()
        self.busy = 0.0


@dataclass(frozen=True)
class Outcome:
    """Batches a second, and the use of each station (1 is all of it), the busiest first."""

    rate: float
    seconds: float
    use: dict[str, float]


def simulate(case: Case, seed: int = 1) -> Outcome:
    """Run ``case.batches`` through, ``case.window`` of them at a time."""
    draw = random.Random(seed)
    cores = max(1, round(case.hosts * case.cores))
    slower = cores / (case.hosts * case.cores)  # a share of a core: one that is slower
    lanes = zip(("extract", "convert", "store"), (1, 1, case.stores), strict=True)
    stations = {name: Station(name, servers) for name, servers in lanes}
    stations |= {"api": Station("api", case.apis), "cores": Station("cores", cores)}
    extract, convert, store = case.stages
    #: (station or a wait, seconds, whether those are drawn from 0 on)
    route = [("api", API_CPU / 2, False), ("", WORKER_LOOKS, True), ("cores", START_CPU * slower, False)]
    route += [("extract", extract, False), ("convert", convert, False), ("store", store, False)]
    route += [("api", API_CPU / 2, False), ("", PARENT_LOOKS, True)]
    now, ends, left = 0.0, list[tuple[float, int, int]](), case.batches

    def arrive(job: int, step: int) -> None:
        name, seconds, drawn = route[step]
        if not name:
            heapq.heappush(ends, (now + (draw.uniform(0, seconds) if drawn else seconds), job, step))
        elif stations[name].free:
            stations[name].free -= 1
            stations[name].busy += seconds
            heapq.heappush(ends, (now + seconds, job, step))
        else:
            stations[name].queue.append((job, step))

    for job in range(min(case.window, case.batches)):
        left -= 1
        arrive(job, 0)
    while ends:
        now, job, step = heapq.heappop(ends)
        if route[step][0]:
            station = stations[route[step][0]]
            station.free += 1
            if station.queue:
                arrive(*station.queue.popleft())
        if step + 1 < len(route):
            arrive(job, step + 1)
        elif left:
            left -= 1
            arrive(job, 0)
    use = {name: station.busy / now / station.servers for name, station in stations.items()}
    return Outcome(case.batches / now, now, dict(sorted(use.items(), key=lambda item: -item[1])))


def enough(case: Case) -> int:
    """Return the window that keeps the busiest lane busy: what is under way while it works off one batch."""
    extract, convert, store = case.stages
    pace = max(extract, convert, store / case.stores)
    latency = API_CPU + WORKER_LOOKS / 2 + START_CPU + sum(case.stages) + PARENT_LOOKS / 2
    return round(latency / pace + 0.5) + 2


def main() -> None:
    """Print a table for each kind of batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", nargs=5, type=float, metavar=("HOSTS", "CORES", "E", "C", "S"))
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--window", type=int, default=24)
    given = parser.parse_args()
    if given.check:
        hosts, cores, *stages = given.check
        lanes = (stages[0], stages[1], stages[2])
        case = Case(int(hosts), lanes, given.window, cores=cores / hosts, batches=given.batches)
        print(simulate(case))  # noqa: T201
        return
    head = (
        "stages (s)",
        "hosts",
        "window",
        "stores",
        "APIs",
        "batches/h",
        "requests/s",
        "connections",
        "limit",
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))  # noqa: T201
    for stages in ((5.0, 3.0, 15.0), (0.5, 0.3, 1.5), (1.0, 0.5, 60.0)):
        for hosts in (1, 10, 100, 1000):
            first = Case(hosts, stages, window=8)
            turned = replace(first, stores=max(5, round(stages[2] / max(stages[:2]) + 0.5)))
            turned = replace(turned, window=enough(turned))
            for case in (first, turned, replace(turned, apis=4)):
                row(case)


def row(case: Case) -> None:
    """Print one case as a row of a Markdown table."""
    done = simulate(case)
    limit, use = next(iter(done.use.items()))
    what = f"{limit} ({use:.0%})" if use > 0.9 else f"window ({limit} {use:.0%})"
    stages = "/".join(f"{seconds:g}" for seconds in case.stages)
    cells = (stages, case.hosts, case.window, case.stores, case.apis, f"{3600 * done.rate:,.0f}")
    cells += (f"{REQUESTS * done.rate:.0f}", CONNECTIONS * case.window, what)
    print("| " + " | ".join(map(str, cells)) + " |")  # noqa: T201


if __name__ == "__main__":
    main()
