#!/usr/bin/env python3
"""CPU by protocol against nginx, HAProxy, Envoy and pingora: HTTP/2, gRPC, TLS, bodies, WebSocket messages, server-sent events.

    cargo build --release && benches/protocols.py [--rounds 5] [--seconds 2] [--only http2,grpc] [--proxies tollgate,nginx]

Each proxy is one worker pinned to core 1; who asks and who answers share core 0. The policy is that of `benches/against.py`: the gate with
everything on (`tollgate, all on` there, the access record included), the peers with a key, a limit and networks, without a log.
In each table the proxies take turns, round by round; pingora is in those with plain HTTP/1 on both sides, which is what its program here speaks. The tables:

    http2       8 connections with 32 streams each (h2load), HTTP/1.1 to the backend
    grpc        unary calls of 32 bytes both ways, 8 connections with 32 streams, HTTP/2 to the backend (h2load)
    tls         64 connections kept, TLS 1.3, ECDSA P-256
    handshakes  a new connection and a whole TLS 1.3 handshake for each request, no session resumed, 16 at a time
    upstream    64 connections without TLS from clients, TLS 1.3 to the backend, verified, connections kept
    post        requests with 1 KiB of body, 64 connections
    up, down    bodies of 1 MiB and of 100 MiB to the backend and from it: CPU per MiB, and the most memory that the proxy was resident in
                (nginx streams here too: its buffering of bodies is off)
    websocket   messages of 64 bytes there and back, on 64 connections
    events      16 streams with an event each millisecond beside 500 streams without one
                (HAProxy has `option http-no-delay` here; without it it holds some twenty events back and sends them as one)

What is printed is CPU time of the proxy's process tree per unit, the median of the rounds with its range, the rate at which the units
went, the highest resident memory, and the ratio of the gate's figure to the row's, round by round. Asking and answering are the project's own (`benches/load`), built on the first run, where it is not h2load. The first round warms up and is not
counted. Traffic stays on loopback; what was started is ended.
Needs cargo, util-linux and openssl, and h2load for two tables (Debian's nghttp2-client); what is missing is left out and said.
"""
import argparse
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile

import peers
from processes import free_port, write
from rounds import GENERATOR_CORE, LOAD, PROXY_CORE, Failures, answering, build_load, generate, interleaved, ratios, ready_machine, spread, table

GATE = "tollgate"
MIB = 1 << 20
IDLE_STREAMS = 500


def h2load(port, key, seconds, *more):
    url = f"http://127.0.0.1:{port}"
    path = "/tollgate.bench.Items/Get" if more else "/api/v1/items?id=42"
    command = ["taskset", "-c", str(GENERATOR_CORE), "h2load", "-t1", "-c8", "-m32", f"-D{seconds}", "-H", f"x-api-key: {key}", *more, url + path]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60).stdout
    asked = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", out)
    data = re.search(r"\((\d+)\) data", out)
    if not asked or not data:
        return {"requests": 0, "failed": 1, "seconds": seconds, "why": out}
    done, succeeded, failed = map(int, asked.groups())
    # A gRPC call that is refused is a 200 without a message.
    if int(data.group(1)) < 30 * succeeded:
        failed += 1
    return {"requests": done, "failed": failed, "seconds": seconds, "why": out if failed else ""}


class Table:
    """One protocol: what is in front and behind, how it is asked, and what is counted."""

    def __init__(self, name, unit, ask, front="http", back="http", streaming=False, needs=None, idle=False, at_once=False):
        self.name, self.unit, self.ask, self.front, self.back = name, unit, ask, front, back
        self.streaming, self.needs, self.idle, self.at_once = streaming, needs, idle, at_once

    def candidates(self, site):
        make = {
            GATE: lambda: peers.gate(site, GATE, "all", self.front, self.back),
            "nginx": lambda: peers.nginx(site, "nginx", self.front, self.back, streaming=self.streaming),
            "haproxy": lambda: peers.haproxy(site, "haproxy", self.front, self.back, at_once=self.at_once),
            "envoy": lambda: peers.envoy(site, "envoy", self.front, self.back),
        }
        if self.front == self.back == "http":
            make["pingora"] = lambda: peers.pingora(site, "pingora")
        return [made() for made in make.values()]


def closed(connections, *more):
    """Asks with `benches/load`; `trust` in `more` stands for TLS."""

    def ask(candidate, seconds):
        words = [f"{candidate.site.work}/tls.crt" if word == "CERTIFICATE" else word for word in more]
        return generate("closed", seconds, "--to", f"127.0.0.1:{candidate.port}", "--connections", connections, "--keys", f"{candidate.site.work}/keys.txt", *words)

    return ask


def by_the_mebibyte(ask):
    def asked(candidate, seconds):
        outcome = ask(candidate, seconds)
        outcome["requests"] = outcome.get("bytes", 0) / MIB
        return outcome

    return asked


def generated(command, *more):
    return lambda candidate, seconds: generate(command, seconds, "--to", f"127.0.0.1:{candidate.port}", "--keys", f"{candidate.site.work}/keys.txt", *more)


def grpc(candidate, seconds):
    message = f"{candidate.site.work}/message"
    with open(message, "wb") as f:
        f.write(b"\0\0\0\0\x20" + b"m" * 32)
    return h2load(candidate.port, candidate.site.keys[0], seconds, "-d", message, "-H", "content-type: application/grpc", "-H", "te: trailers")


def body(direction, bytes_, connections):
    more = ("--body", bytes_, "--path", "/api/v1/upload") if direction == "up" else ("--path", f"/bytes/{bytes_}")
    return by_the_mebibyte(closed(connections, *more))


TABLES = (
    Table("http2", "request", lambda c, seconds: h2load(c.port, c.site.keys[0], seconds), front="h2c", needs="h2load"),
    Table("grpc", "call", grpc, front="h2c", back="h2c", needs="h2load"),
    Table("tls", "request", closed(64, "--trust", "CERTIFICATE"), front="tls"),
    Table("handshakes", "connection", closed(16, "--trust", "CERTIFICATE", "--fresh", "true"), front="tls"),
    Table("upstream", "request", closed(64), back="tls"),
    Table("post", "request", closed(64, "--body", "1024", "--path", "/api/v1/orders")),
    Table("up 1 MiB", "MiB", body("up", MIB, 16), streaming=True),
    Table("down 1 MiB", "MiB", body("down", MIB, 16), streaming=True),
    Table("up 100 MiB", "MiB", body("up", 100 * MIB, 2), streaming=True),
    Table("down 100 MiB", "MiB", body("down", 100 * MIB, 2), streaming=True),
    Table("websocket", "message", generated("messages", "--connections", 64, "--path", "/api/v1/talk")),
    Table("events", "event", generated("events", "--connections", 16, "--path", "/events/1"), streaming=True, idle=True, at_once=True),
)


def hold_idle_streams(candidate):
    """Streams without events, held until they are ended; none where they could not be opened."""
    words = ["events", "--to", f"127.0.0.1:{candidate.port}", "--keys", f"{candidate.site.work}/keys.txt", "--path", "/events/3600000"]
    command = ["taskset", "-c", str(GENERATOR_CORE), LOAD, *words, "--connections", str(IDLE_STREAMS), "--hold", "true", "--seconds", "3600"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ready, _, _ = select.select([holder.stdout], [], [], 30)
    if not ready or holder.stdout.readline() != "ready\n":
        print(f"{candidate.name}: its idle streams did not open", file=sys.stderr)
    return holder


def measured(one, site, options, failures):
    started, holders = [], []
    try:
        for candidate in one.candidates(site):
            if (not options.proxies or candidate.proxy in options.proxies.split(",")) and candidate.start(PROXY_CORE):
                started.append(candidate)
        if one.idle:
            holders = [hold_idle_streams(candidate) for candidate in started]
        figures = interleaved(started, options.rounds, lambda c: one.ask(c, options.seconds), failures, one.name)
    finally:
        for holder in holders:
            holder.terminate()
            holder.wait()
        for candidate in reversed(started):
            candidate.end()
    print(f"{one.name}: median of {options.rounds} rounds (least–most)\n")
    rows = []
    for name, outcomes in figures.items():
        rate = statistics.median(outcome["requests"] / outcome["seconds"] for outcome in outcomes)
        peak = max(outcome["peak"] for outcome in outcomes)
        rows.append([name, spread([outcome["cpu"] for outcome in outcomes]), f"{rate:.0f}", f"{peak:.1f}", "" if name == GATE else ratios(figures, GATE, name)])
    table(["", f"CPU µs a {one.unit}", f"{one.unit}/s", "peak MiB", "tollgate to it"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each proxy in each round")
    parser.add_argument("--only", help="tables, with commas: " + ", ".join(one.name for one in TABLES))
    parser.add_argument("--proxies", help="tollgate,nginx,haproxy,envoy,pingora")
    options = parser.parse_args()
    ready_machine()
    build_load()
    failures = Failures()
    wanted = options.only and [name.strip() for name in options.only.split(",")]
    with tempfile.TemporaryDirectory() as work:
        site = peers.Site(work, free_port(), free_port(), free_port())
        certified = site.certify()
        tls = ["--https", f"127.0.0.1:{site.https}", "--certificate", f"{work}/tls.crt", "--key", f"{work}/tls.key"] if certified else []
        backend = answering(site, "--h2c", f"127.0.0.1:{site.h2c}", *tls)
        try:
            for one in TABLES:
                if wanted and one.name not in wanted:
                    continue
                if one.needs and not shutil.which(one.needs):
                    print(f"left out: {one.name}, because {one.needs} is not there: apt-get install nghttp2-client", file=sys.stderr)
                elif "tls" in (one.front, one.back) and not certified:
                    print(f"left out: {one.name}, because openssl is not there: apt-get install openssl", file=sys.stderr)
                else:
                    measured(one, site, options, failures)
        finally:
            backend.end()
    failures.end()


main()
