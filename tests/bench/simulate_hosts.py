"""The limits of 10, 100 or 1,000 worker hosts: the pipeline with fan_out=work-pool as a network of queues.

    .venv/bin/python tests/bench/simulate_hosts.py                              # the table of SCALING.md
    .venv/bin/python tests/bench/simulate_hosts.py --check SECONDS… CORES CPU   # one machine as several hosts

A batch in flight sends requests to the Prefect API, waits for the next poll of a worker, starts a process on
a core, passes the three lanes and waits for the next poll of its parent. The requests of idle workers and
recovery processes reduce the capacity of the API.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import deque
from dataclasses import dataclass, replace

#: Measured by `make hosts`: CPU seconds of a flow process with its stages, and of the API per request;
#: requests and connections (PostgreSQL) per batch; requests per second of a recovery process.
START_CPU, REQUEST_CPU, REQUESTS, CONNECTIONS, RECOVERY = 5.1, 0.016, 60, 3, 0.7
#: Seconds between two polls of a parent for ended children.
PARENT_POLL = 1.0


@dataclass(frozen=True)
class Case:
    """Hosts with ``cores`` each; seconds of a batch in extract, convert and store; and the settings."""

    hosts: int
    stages: tuple[float, float, float]
    window: int = 24
    stores: int = 5
    apis: int = 1
    poll: float = 2
    recoveries: int = 0
    cores: float = 4
    start_cpu: float = START_CPU
    batches: int = 2000

    @property
    def idle(self) -> float:
        """Requests per second of workers (polls, and two heartbeats every 30 s) and recovery processes."""
        return self.hosts * (1 / self.poll + 2 / 30) + (self.recoveries or self.hosts) * RECOVERY

    @property
    def api_use(self) -> float:
        """Share of the API's capacity that idle hosts use."""
        return self.idle * REQUEST_CPU / self.apis

    @property
    def latency(self) -> float:
        """Seconds of a single batch without waiting."""
        return REQUESTS * REQUEST_CPU + (self.poll + PARENT_POLL) / 2 + self.start_cpu + sum(self.stages)

    @property
    def pace(self) -> float:
        """Seconds per batch of the busiest lane: the lower bound of the pipeline."""
        return max(self.stages[0], self.stages[1], self.stages[2] / self.stores)


class Station:
    """A FIFO queue for ``servers``."""

    def __init__(self, servers: int) -> None:
        self.servers, self.free, self.busy = servers, servers, 0.0
        self.queue: deque[tuple[int, int]] = deque()


def route_of(case: Case, cores: int) -> list[tuple[str, float]]:
    """Return the stations that a batch passes and its seconds at each; "" is a poll."""
    asking = REQUESTS * REQUEST_CPU / 2 / (1 - case.api_use)
    starting = case.start_cpu * cores / (case.hosts * case.cores)
    return [
        ("api", asking),
        ("", case.poll),
        ("cores", starting),
        *zip(("extract", "convert", "store"), case.stages, strict=True),
        ("api", asking),
        ("", PARENT_POLL),
    ]


def simulate(case: Case) -> tuple[float, dict[str, float]]:
    """Return the seconds for ``case.batches``, and the utilisation of each station, the busiest first."""
    draw = random.Random(1)
    cores = max(1, round(case.hosts * case.cores))
    servers = {"extract": 1, "convert": 1, "store": case.stores, "cores": cores, "api": case.apis}
    stations = {name: Station(number) for name, number in servers.items()}
    route = route_of(case, cores)
    now, ends, left = 0.0, list[tuple[float, int, int]](), case.batches

    def arrive(job: int, step: int) -> None:
        name, seconds = route[step]
        if not name:  # a poll, at a random time
            heapq.heappush(ends, (now + draw.uniform(0, seconds), job, step))
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
        if station := stations.get(route[step][0]):
            station.free += 1
            if station.queue:
                arrive(*station.queue.popleft())
        if step + 1 < len(route):
            arrive(job, step + 1)
        elif left:
            left -= 1
            arrive(job, 0)
    use = {name: station.busy / now / station.servers for name, station in stations.items()}
    return now, dict(sorted(use.items(), key=lambda item: -item[1]))


def tuned(case: Case) -> Case:
    """Return the case with settings for which an exclusive lane is the limit, and not the API."""
    stores = max(5, round(case.stages[2] / max(case.stages[:2]) + 0.5))
    case = replace(case, stores=stores, recoveries=2, poll=max(2.0, min(15.0, case.hosts / 10)))
    case = replace(case, window=max(8, round(1.2 * case.latency / case.pace + 0.5)))
    return replace(case, apis=1 + int((case.idle + REQUESTS / case.pace) * REQUEST_CPU / 0.7))


def row(case: Case) -> str:
    """Return one case as a row of a Markdown table."""
    stages = "/".join(f"{seconds:g}" for seconds in case.stages)
    cells = [
        stages,
        case.hosts,
        case.window,
        case.stores,
        case.apis,
        f"{case.poll:g}",
        case.recoveries or "all",
    ]
    if case.api_use >= 1:
        cells += ["0", f"{case.idle:,.0f}", "", "API: idle hosts alone exceed its capacity"]
    else:
        seconds, use = simulate(case)
        limit, share = next(iter(use.items()))
        rate = case.batches / seconds
        what = f"{limit} {share:.0%}" if share > 0.9 else f"window ({limit} {share:.0%})"
        asked = case.idle + REQUESTS * rate
        cells += [f"{3600 * rate:,.0f}", f"{asked:,.0f}", CONNECTIONS * case.window, what]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print the table, or the model's figures for a measured run on one machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    columns = ("HOSTS", "BATCHES", "WINDOW", "EXTRACT", "CONVERT", "STORE", "CORES", "CPU")
    parser.add_argument("--check", nargs=len(columns), type=float, metavar=columns)
    if given := parser.parse_args().check:
        hosts, batches, window, *stages, cores, cpu = given
        lanes = (stages[0], stages[1], stages[2])
        case = Case(int(hosts), lanes, int(window), cores=cores / hosts, start_cpu=cpu, batches=int(batches))
        print(*simulate(case))  # noqa: T201
        return
    head = ("E/C/S (s)", "hosts", "window", "stores", "APIs", "poll (s)", "recoveries")
    head += ("batches/h", "requests/s", "connections", "limit")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))  # noqa: T201
    for stages in ((0.5, 0.3, 1.5), (5.0, 3.0, 15.0), (5.0, 3.0, 600.0)):
        for hosts in (1, 10, 100, 1000):
            case = Case(hosts, stages)
            print(row(case), row(tuned(case)), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
