#!/usr/bin/env python3
"""Two workers against one: CPU a request, and how connections spread over them.

    cargo build --release && benches/workers.py [--rounds 5] [--seconds 2]

    work    a gate with one worker and a gate with two, everything on, take turns under 64 connections that ask as fast as they are
            answered: both pinned to core 1, where only what is done twice differs; and both on all cores, where what two workers
            share moves between them (the generator and the backend are there too: read the ratio)
    spread  few and many connections at a low fixed rate, each carrying as much as the others, opened anew in each round: the share of
            the gate's CPU time that its less busy worker took. 50 % is two of four, or 32 of 64

Medians of the rounds, least and most. Traffic stays on loopback; what was started is ended. Needs cargo, util-linux and two cores.
"""
import argparse
import os
import tempfile

import peers
from processes import free_port
from rounds import PROXY_CORE, Failures, answering, build_load, generate, interleaved, ratios, ready_machine, spread, table


def worker_nanos(pid):
    """CPU time of each worker's thread."""
    found = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        name = open(f"/proc/{pid}/task/{task}/comm").read().strip()
        if name.startswith("tollgate-") and name.rsplit("-", 1)[1].isdigit():
            found[name] = int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0])
    return found


def asked(command, candidate, seconds, connections, *more):
    words = ("--to", f"127.0.0.1:{candidate.port}", "--connections", connections, "--keys", f"{candidate.site.work}/keys.txt")
    return generate(command, seconds, *words, *more)


def work(site, options, failures):
    rows = []
    for where, cores in (("core 1", PROXY_CORE), ("all cores", f"0-{(os.cpu_count() or 2) - 1}")):
        gates = [peers.gate(site, f"{workers} on {where}", workers=workers) for workers in (1, 2)]
        started = []
        try:
            for candidate in gates:
                if candidate.start(cores):
                    started.append(candidate)
            figures = interleaved(started, options.rounds, lambda c: asked("closed", c, options.seconds, 64), failures, where)
        finally:
            for candidate in reversed(started):
                candidate.end()
        one, two = (figures.get(candidate.name, []) for candidate in gates)
        if one and two:
            cells = [spread([outcome["cpu"] for outcome in outcomes]) for outcomes in (one, two)]
            rows.append([where, *cells, ratios(figures, gates[1].name, gates[0].name)])
    print("CPU µs a request, 64 connections\n")
    table(["", "one worker", "two workers", "two to one"], rows)


def shares(site, options, failures):
    candidate = peers.gate(site, "two workers", workers=2)
    if not candidate.start(f"0-{(os.cpu_count() or 2) - 1}"):
        return
    rows = []
    try:
        for connections in (4, 64):
            found = []
            for _ in range(options.rounds):
                before = worker_nanos(candidate.pid)
                failures.count("spread", asked("open", candidate, options.seconds, connections, "--rate", 2000))
                took = [nanos - before[name] for name, nanos in worker_nanos(candidate.pid).items()]
                found.append(100 * min(took) / max(sum(took), 1))
            rows.append([connections, spread(found, 0)])
    finally:
        candidate.end()
    print("share of the less busy of two workers, per cent of their CPU time, 2000 requests a second\n")
    table(["connections", "share"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    ready_machine()
    build_load()
    failures = Failures()
    with tempfile.TemporaryDirectory() as work_directory:
        site = peers.Site(work_directory, free_port())
        backend = answering(site)
        try:
            work(site, options, failures)
            shares(site, options, failures)
        finally:
            backend.end()
    failures.end()


main()
