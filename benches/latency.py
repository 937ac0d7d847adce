#!/usr/bin/env python3
"""Latency at fixed rates beside the peers, and of an admitted tenant beside a flood of refusals.

    cargo build --release && benches/latency.py [--rounds 5] [--seconds 2.5] [--shares 20,50,80] [--only rates|flood] [--proxies tollgate,nginx]

The generator (`benches/load`, `open`) sends at fixed times, whatever the answers take, and measures from the time a request was meant
to leave: waiting for a server that stalls is counted, not left out. The rates are shares of what the gate does with everything on when
64 connections ask as fast as they are answered. Each proxy is pinned to core 1; generator and backend share core 0, and the row
`direct` is them alone: what stands there is not the proxies'. All take turns, round by round.

    rates   p50, p90, p99 and p99.9 at each share, the policies as in `benches/against.py` (gate: all on; peers: key, limit, networks, no log).
            A proxy that is asked for more than it can do shows it.
    flood   a tenant's requests at 20 % of that rate on 16 connections; beside them nothing; as many requests again as half of the gate's
            rate, but to the backend itself (the generators' own noise); the same to the gate with unknown keys, each another (401);
            the same with a key whose limit is used up (429). The gate's resident memory stands beside it: nothing is to grow.

Figures in µs: the median of the rounds, least and most. The first round warms up and is not counted. Tails on a shared machine are the
machine's: read a row beside `direct`. Traffic stays on loopback; what was started is ended.
Needs cargo and util-linux, two cores; a peer that is missing is left out and said.
"""
import argparse
import random
import statistics
import subprocess
import tempfile
import time

import peers
from processes import free_port, write
from rounds import GENERATOR_CORE, LOAD, PROXY_CORE, Failures, answering, build_load, generate, interleaved, ready_machine, spread, table

PERCENTILES = ("p50", "p90", "p99", "p999")
HEAD = ("p50", "p90", "p99", "p99.9")
TENANT_SHARE, FLOOD_SHARE = 0.2, 0.5
GATE = "tollgate"


class Direct:
    """The backend itself, in the place of a candidate: what generator and backend take without a proxy."""

    name = proxy = "direct"

    def __init__(self, site, backend):
        self.site, self.port, self.pid = site, site.http, backend.process.pid


def capacity(candidate):
    """Requests a second when 64 connections ask as fast as they are answered."""
    words = ("--to", f"127.0.0.1:{candidate.port}", "--connections", 64, "--keys", f"{candidate.site.work}/keys.txt")
    generate("closed", 1, *words)
    rates = []
    for _ in range(3):
        outcome = generate("closed", 2, *words)
        rates.append(outcome["requests"] / outcome["seconds"])
    return statistics.median(rates)


def at_rate(candidate, rate, connections, seconds):
    return generate("open", seconds, "--to", f"127.0.0.1:{candidate.port}", "--rate", f"{rate:.1f}", "--connections", connections, "--keys", f"{candidate.site.work}/keys.txt")


def row(name, outcomes):
    cells = [name] + [spread([outcome.get(percentile, 0) for outcome in outcomes], 0) for percentile in PERCENTILES]
    unanswered = sum(outcome.get("unanswered", 0) for outcome in outcomes)
    asked = sum(outcome.get("asked", 0) for outcome in outcomes)
    return cells + [f"asked for more than it can do: {unanswered / asked:.0%} unanswered" if unanswered else ""]


def rates(site, backend, options, failures):
    candidates = [Direct(site, backend)]
    started = []
    try:
        for candidate in (peers.gate(site, GATE), peers.nginx(site, "nginx"), peers.haproxy(site, "haproxy"), peers.envoy(site, "envoy"), peers.pingora(site, "pingora")):
            if (not options.proxies or candidate.proxy in options.proxies.split(",")) and candidate.start(PROXY_CORE):
                started.append(candidate)
        gate = next((candidate for candidate in started if candidate.name == GATE), None)
        if not gate:
            raise SystemExit("without the gate there is no rate to take shares of")
        most = capacity(gate)
        print(f"the gate does {most:.0f} requests a second on 64 connections\n")
        for share in map(int, options.shares.split(",")):
            rate = most * share / 100
            figures = interleaved(candidates + started, options.rounds, lambda c: at_rate(c, rate, 64, options.seconds), failures, f"{share} %")
            print(f"{share} % of that, {rate:.0f} requests a second on 64 connections: µs from when a request was meant to leave, median of {options.rounds} rounds (least–most)\n")
            table(["", *HEAD, ""], [row(name, outcomes) for name, outcomes in figures.items()])
    finally:
        for candidate in reversed(started):
            candidate.end()


class Flood:
    """What goes on beside the tenant's requests, in the place of a candidate."""

    def __init__(self, name, gate, *words):
        self.name, self.gate, self.words, self.pid, self.site = name, gate, words, gate.pid, gate.site

    def beside(self, rate, flood_rate, seconds):
        if not self.words:
            return at_rate(self.gate, rate, 16, seconds)
        command = ["taskset", "-c", str(GENERATOR_CORE), LOAD, "open", "--rate", f"{flood_rate:.1f}", "--connections", "64", "--seconds", str(seconds + 1), *map(str, self.words)]
        flooding = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(0.4)
            outcome = at_rate(self.gate, rate, 16, seconds)
            told, _ = flooding.communicate(timeout=seconds + 30)
        finally:
            flooding.kill()
            flooding.wait()
        if '"failed":0' not in told:
            outcome["failed"] += 1
            outcome["why"] = f"the flood was not answered as it should be: {told}"
        return outcome


def flood(site, options, failures):
    rng = random.Random(7)
    write(f"{site.work}/unknown.txt", "".join(f"ak_{rng.getrandbits(200):050x}\n" for _ in range(10_000)))
    write(f"{site.work}/one.txt", site.keys[-1] + "\n")
    gate = peers.gate(site, GATE, "scarce")
    if not gate.start(PROXY_CORE):
        return
    try:
        most = capacity(gate)
        rate, flood_rate = most * TENANT_SHARE, most * FLOOD_SHARE
        to_gate, to_backend = f"127.0.0.1:{gate.port}", f"127.0.0.1:{site.http}"
        # Uses up the one request that the limit gives.
        generate("closed", 0.1, "--to", to_gate, "--keys", f"{site.work}/one.txt", "--path", "/api/v1/scarce")
        floods = (
            Flood("no flood", gate),
            Flood("the flood to the backend", gate, "--to", to_backend),
            Flood("a flood of 401", gate, "--to", to_gate, "--keys", f"{site.work}/unknown.txt", "--expect", 401),
            Flood("a flood of 429", gate, "--to", to_gate, "--keys", f"{site.work}/one.txt", "--path", "/api/v1/scarce", "--expect", 429),
        )
        figures = interleaved(floods, options.rounds, lambda f: f.beside(rate, flood_rate, options.seconds), failures, "flood")
        print(f"a tenant at {rate:.0f} requests a second beside {flood_rate:.0f} others: µs, median of {options.rounds} rounds (least–most)\n")
        rows = [row(name, outcomes)[:-1] + [spread([outcome["peak"] for outcome in outcomes])] for name, outcomes in figures.items()]
        table(["", *HEAD, "gate's peak MiB"], rows)
    finally:
        gate.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each proxy in each round")
    parser.add_argument("--shares", default="20,50,80", help="per cent of the gate's rate")
    parser.add_argument("--only", choices=("rates", "flood"))
    parser.add_argument("--proxies", help="tollgate,nginx,haproxy,envoy,pingora")
    options = parser.parse_args()
    ready_machine()
    build_load()
    failures = Failures()
    with tempfile.TemporaryDirectory() as work:
        site = peers.Site(work, free_port())
        backend = answering(site)
        try:
            if options.only != "flood":
                rates(site, backend, options, failures)
            if options.only != "rates":
                flood(site, options, failures)
        finally:
            backend.end()
    failures.end()


main()
