#!/usr/bin/env python3
"""CPU per proxied request against nginx, HAProxy, Envoy and pingora, on the same work, in one interleaved run.

    cargo build --release && benches/against.py [--rounds 5] [--seconds 2] [--connections 1,64,512] [--only nginx,tollgate]

Each proxy is one worker pinned to core 1; wrk and the backend (an nginx that answers 250 bytes) share core 0. A request carries
one of 10 000 keys in X-API-Key; each proxy looks it up, counts it against a limit of its own that never runs out, checks a
list of 20 networks, and sends the key's id on. The candidates take turns, round by round (A B C D A B C D …):

    nginx, haproxy, envoy, pingora      as above, without a log (Envoy without statistics too)
    the same, log                       nginx: access_log to a file, buffered, and stub_status; HAProxy: httplog to a syslog
                                        server, and its Prometheus exporter; Envoy: access log to a file, and its statistics;
                                        pingora: a buffered line a request
    tollgate, same                      as the peers without a log
    tollgate, all on                    key, scopes, allowlist, three limits, a quota, metrics, the access record to a file
    tollgate, fields                    the same, with limit fields on the answers and identity fields to the backend
    tollgate, kept                      all on, its state in a directory
    tollgate, off                       the same routes, record and metrics, but public and without limits: what policy costs is
                                        all on against this

What is printed is CPU time of the proxy's process tree per request (/proc/PID/task/*/schedstat), the median of the rounds, and
the median of the per-round ratios with its range: machines are noisy, ratios of one round less so. The first round warms up
and is not counted. Traffic stays on loopback; what was started is ended.
Needs wrk, nginx, util-linux (Debian's packages) and two cores; a peer that is missing is left out, and how to get it is said.
"""
import argparse
import statistics
import tempfile
import urllib.error
import urllib.request

import peers
from processes import NGINX, Running, free_port, write
from rounds import GENERATOR_CORE, PROXY_CORE, Failures, interleaved, ratios, ready_machine, spread, table, wrk

BODY = '{"id":"0192f0c1-7d3b-7cc3-98c4-dc0c0c07398f","status":"ok","items":[' + ",".join("1" * 90) + "]}"
# Whatever proxy the environment names, loopback is not behind it.
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
GATES = ("same", "all on", "fields", "kept", "off")


def candidates(site):
    sink = peers.syslog()
    return [
        peers.nginx(site, "nginx"),
        peers.haproxy(site, "haproxy"),
        peers.envoy(site, "envoy"),
        peers.pingora(site, "pingora"),
        peers.gate(site, "tollgate, same", "same"),
        peers.gate(site, "tollgate, all on", "all"),
        peers.nginx(site, "nginx, log", log=True),
        peers.haproxy(site, "haproxy, log", log=sink),
        peers.envoy(site, "envoy, log", log=True),
        peers.pingora(site, "pingora, log", log=True),
        peers.gate(site, "tollgate, fields", "fields"),
        peers.gate(site, "tollgate, kept", "kept"),
        peers.gate(site, "tollgate, off", "off"),
    ]


def proves_its_work(candidate):
    """A known key passes, and an unknown one does not, unless policy is off."""
    for key, expected in ((candidate.site.keys[0], 200), ("nobodys", 200 if candidate.name == "tollgate, off" else 401)):
        asked = urllib.request.Request(f"http://127.0.0.1:{candidate.port}/api/v1/items?id=42", headers={"X-API-Key": key})
        try:
            status = DIRECTLY.open(asked, timeout=5).status
        except urllib.error.HTTPError as refusal:
            status = refusal.code
        if status != expected:
            raise SystemExit(f"{candidate.name} answers {status} where {expected} is right: it does other work")


def report(connections, rounds, figures):
    print(f"CPU a request, {connections} connections, median of {rounds} rounds (least–most)\n")
    rows = []
    for name, outcomes in figures.items():
        rate = statistics.median(outcome["requests"] / outcome["seconds"] for outcome in outcomes)
        rows.append([name, spread([outcome["cpu"] for outcome in outcomes]), f"{rate:.0f}"])
    table(["", "CPU µs a request", "requests/s"], rows)
    for log in ("", ", log"):
        others = [peer + log for peer in ("nginx", "haproxy", "envoy", "pingora") if figures.get(peer + log)]
        rows = [[f"tollgate, {gate}"] + [ratios(figures, f"tollgate, {gate}", other) for other in others] for gate in GATES if figures.get(f"tollgate, {gate}")]
        if others and rows:
            table(["ratio of a round to"] + others, rows)
    on_to_off = ratios(figures, "tollgate, all on", "tollgate, off")
    print(f"policy on to off: {on_to_off}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each candidate in each round")
    parser.add_argument("--connections", default="1,64,512", help="a table for each of these")
    parser.add_argument("--only", help="proxies (nginx,tollgate) or candidates, these with semicolons ('nginx, log;tollgate, all on')")
    options = parser.parse_args()
    ready_machine("wrk", "nginx")
    # A candidate's name has a comma and a space in it.
    only = options.only and options.only.split(";" if ";" in options.only or ", " in options.only else ",")
    failures = Failures()
    with tempfile.TemporaryDirectory() as work:
        site = peers.Site(work, free_port())
        backend = NGINX % {"work": work, "name": "backend", "http": f"""
  server {{ listen 127.0.0.1:{site.http} backlog=4096; location / {{ default_type application/json; return 200 '{BODY}'; }} }}"""}
        # Every candidate keeps its connections while the others take their turns.
        write(f"{work}/backend.conf", backend.replace("worker_connections 4096", "worker_connections 30000"))
        started = [Running("backend", GENERATOR_CORE, ["nginx", "-c", f"{work}/backend.conf"], site.http, work)]
        try:
            chosen = [c for c in candidates(site) if not only or c.proxy in only or c.name in only]
            for candidate in list(chosen):
                if candidate.start(PROXY_CORE):
                    started.append(candidate)
                    proves_its_work(candidate)
                else:
                    chosen.remove(candidate)
            for connections in map(int, options.connections.split(",")):
                figures = interleaved(chosen, options.rounds, lambda c: wrk(work, c.port, connections, options.seconds), failures, f"{connections} connections")
                report(connections, options.rounds, figures)
        finally:
            for process in reversed(started):
                process.end()
    failures.end()


main()
