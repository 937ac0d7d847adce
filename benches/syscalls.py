#!/usr/bin/env python3
"""System calls a request, by name, of the gate and its peers.

    cargo build --release && benches/syscalls.py [--seconds 6] [--connections 1,64] [--proxies tollgate,nginx]

strace counts the calls of the proxy's whole process tree while kept connections ask as fast as they are answered; the policies are those of
`benches/against.py` (gate: all on; peers: key, limit, networks, no log). The least that a proxy of HTTP/1.1 can do is four: a read and a
write on each side, and what it waits with. strace slows what it watches, so that more waits for each wake-up: with many connections the
calls that wait are fewer here than without it; with one connection nothing changes. Traffic stays on loopback; what was started is ended.
Needs cargo, util-linux, two cores and strace (Debian's package), and leave to trace one's own processes.
"""
import argparse
import re
import subprocess
import tempfile
import time

import peers
from processes import free_port, tree
from rounds import PROXY_CORE, Failures, answering, build_load, generate, ready_machine, table


def counted(candidate, connections, seconds, failures):
    """Calls by name, for each request."""
    words = ("--to", f"127.0.0.1:{candidate.port}", "--connections", connections, "--keys", f"{candidate.site.work}/keys.txt")
    # Long enough that what a start leaves to be done, such as a second look at fresh files, is done.
    generate("closed", 2, *words)
    out = f"{candidate.site.work}/strace.out"
    attached = [word for pid in tree(candidate.pid) for word in ("-p", str(pid))]
    strace = subprocess.Popen(["strace", "-f", "-c", "-U", "calls,name", "-o", out, *attached], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    outcome = generate("closed", seconds, *words)
    strace.terminate()
    _, said = strace.communicate(timeout=30)
    failures.count(candidate.name, outcome)
    calls = {name: int(number) for number, name in re.findall(r"^ *(\d+) +(\w+)$", open(out).read(), re.M) if name != "total"}
    if not calls:
        raise SystemExit(f"strace counted nothing: {said}")
    return {name: number / max(outcome["requests"], 1) for name, number in calls.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=6, help="so long that making the connections does not count")
    parser.add_argument("--connections", default="1,64")
    parser.add_argument("--proxies", help="tollgate,nginx,haproxy,envoy,pingora")
    options = parser.parse_args()
    ready_machine("strace")
    build_load()
    failures = Failures()
    with tempfile.TemporaryDirectory() as work:
        site = peers.Site(work, free_port())
        started = [answering(site)]
        try:
            chosen = []
            for candidate in (peers.gate(site, "tollgate"), peers.nginx(site, "nginx"), peers.haproxy(site, "haproxy"), peers.envoy(site, "envoy"), peers.pingora(site, "pingora")):
                if (not options.proxies or candidate.proxy in options.proxies.split(",")) and candidate.start(PROXY_CORE):
                    started.append(candidate)
                    chosen.append(candidate)
            for connections in map(int, options.connections.split(",")):
                rows = []
                for candidate in chosen:
                    calls = counted(candidate, connections, options.seconds, failures)
                    most = sorted(calls.items(), key=lambda call: -call[1])
                    rows.append([candidate.name, f"{sum(calls.values()):.2f}", ", ".join(f"{name} {number:.2f}" for name, number in most if number >= 0.01)])
                print(f"system calls a request, {connections} connections\n")
                table(["", "calls", "of which"], rows)
        finally:
            for process in reversed(started):
                process.end()
    failures.end()


main()
