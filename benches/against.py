#!/usr/bin/env python3
"""CPU per proxied request against nginx and HAProxy, on the same work, in one interleaved run.

    cargo build --release && benches/against.py [--rounds 5] [--seconds 2] [--connections 64]

Each proxy is one worker pinned to core 1; wrk and the backend (an nginx that answers 250 bytes) share core 0. A request carries
one of 10 000 keys in X-API-Key; each proxy looks it up, counts it against a limit of its own that never runs out, checks a
list of 20 networks, and sends the key's id on. Five candidates:

    nginx, haproxy      as above, without a log
    tollgate (same)     as above, without records and limit headers
    tollgate (all on)   scopes, three limits, a quota, access records, limit headers, identity headers, metrics
    tollgate (kept)     the same, with its state in a directory

What is printed is CPU time of the proxy's process tree per request (/proc/PID/task/*/schedstat), the median of the rounds, and
the median of the per-round ratios to HAProxy: machines are noisy, ratios of one round less so. Traffic stays on loopback.
Needs wrk, nginx, haproxy (Debian's packages of these names) and two cores; what is missing is left out and said.
"""
import argparse
import hashlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile

from processes import NGINX, TOLLGATE, Running, cpu_us, free_port, write

BODY = '{"id":"0192f0c1-7d3b-7cc3-98c4-dc0c0c07398f","status":"ok","items":[' + ",".join("1" * 90) + "]}"

WRK = """
local keys = {}
for line in io.lines("%(work)s/keys.txt") do keys[#keys + 1] = line end
local at = 0
request = function()
  at = (at + 7919) %% #keys
  return wrk.format("GET", "/api/v1/items?id=42", { ["X-API-Key"] = keys[at + 1], ["Accept"] = "application/json" })
end
done = function(summary)
  local e = summary.errors
  io.write(string.format("DONE %%d %%d\\n", summary.requests, e.connect + e.read + e.write + e.status + e.timeout))
end
"""

def configure(work, upstream):
    """Writes every candidate's configuration; returns name -> (command, port)."""
    rng = random.Random(42)
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
    keys = ["ak_" + "".join(rng.choice(alphabet) for _ in range(40)) for _ in range(10_000)]
    nets = [f"10.{i}.0.0/16" for i in range(1, 20)] + ["127.0.0.0/8"]
    write(f"{work}/keys.txt", "".join(k + "\n" for k in keys))
    write(f"{work}/wrk.lua", WRK % {"work": work})
    found = {}

    port = free_port()
    pairs = "".join(f'"{k}" "k{i}";\n' for i, k in enumerate(keys))
    write(f"{work}/nginx.keys", pairs)
    geo = "geo $allowed { default 0; " + " ".join(f"{n} 1;" for n in nets) + " }"
    write(f"{work}/nginx.conf", NGINX % {"work": work, "name": "nginx", "http": f"""
  upstream be {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
  map_hash_max_size 262144; map_hash_bucket_size 128;
  map $http_x_api_key $key {{ default ""; include {work}/nginx.keys; }}
  {geo}
  limit_req_zone $key zone=k:16m rate=1000000r/s;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
    if ($allowed = 0) {{ return 403; }} if ($key = "") {{ return 401; }}
    limit_req zone=k burst=1000000 nodelay;
    proxy_set_header X-Key-Id $key; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Host $http_host;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://be; }} }}"""})
    if shutil.which("nginx"):
        found["nginx"] = (["nginx", "-c", f"{work}/nginx.conf"], port)

    port = free_port()
    write(f"{work}/haproxy.map", "".join(f"{k} k{i}\n" for i, k in enumerate(keys)))
    write(f"{work}/nets.lst", "".join(n + "\n" for n in nets))
    write(f"{work}/haproxy.cfg", f"""
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 60s
  http-reuse always
frontend f
  bind 127.0.0.1:{port} backlog 4096
  stick-table type string len 16 size 20k expire 10m store http_req_rate(60s)
  http-request deny deny_status 403 unless {{ src -f {work}/nets.lst }}
  http-request set-var(txn.key) req.hdr(x-api-key),map_str({work}/haproxy.map)
  http-request deny deny_status 401 unless {{ var(txn.key) -m found }}
  http-request track-sc0 var(txn.key)
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000000 }}
  http-request set-header X-Key-Id %[var(txn.key)]
  option forwardfor
  default_backend b
backend b
  server s 127.0.0.1:{upstream} pool-max-conn 1024
""")
    if shutil.which("haproxy"):
        found["haproxy"] = (["haproxy", "-db", "-f", f"{work}/haproxy.cfg"], port)

    with open(f"{work}/gate.keys.jsonl", "w") as f:
        for i, k in enumerate(keys):
            digest = hashlib.sha256(k.encode()).hexdigest()
            f.write(f'{{"id":"k{i}","tenant":"t{i % 100}","scopes":["read"],"digest":{{"sha256":"{digest}"}}}}\n')
    head = f"""
version: 1
upstream: {{ url: "http://127.0.0.1:{upstream}", pool: {{ size: 1024 }} }}
admin: none
state: memory
workers: 1
allow: [{", ".join(nets)}]
credentials: {{ accept: [{{ header: X-API-Key }}], keys: gate.keys.jsonl }}
"""
    routes = """
routes:
  - { name: items, match: "GET /api/v1/items" }
  - { name: all, match: "ANY /**" }
limits:
  throttle: { rate: 60000000/minute, per: key }
"""
    write(f"{work}/same.yaml", head + routes + """
identity: { key: X-Key-Id }
record: { to: none }
report: { x-ratelimit: none, ratelimit: none }
""")
    write(f"{work}/all.yaml", head + routes.replace('items" }', 'items", scope: read }').replace('/**" }', '/**", scope: read }') + """
  fair: { rate: 600000000/minute, per: tenant }
  crowd: { rate: 6000000000/minute, per: address }
  month: { quota: 600000000000/month, per: tenant }
identity: { tenant: X-Tenant-Id, key: X-Key-Id }
record: { to: """ + f"{work}/access.log" + """ }
""")
    if os.path.exists(TOLLGATE):
        for name, policy, state in (
            ("tollgate (same)", "same", "memory"),
            ("tollgate (all on)", "all", "memory"),
            ("tollgate (kept)", "all", f"{work}/state"),
        ):
            port = free_port()
            command = [TOLLGATE, "run", "--config", f"{work}/{policy}.yaml", "--listen", f"127.0.0.1:{port}", "--state", state]
            found[name] = (command, port)
    return found


def load(work, port, connections, seconds):
    command = ["taskset", "-c", "0", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", f"{work}/wrk.lua", f"http://127.0.0.1:{port}/"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30).stdout
    done = [line.split() for line in out.splitlines() if line.startswith("DONE")]
    if not done:
        raise SystemExit(f"wrk said nothing useful:\n{out}")
    return int(done[0][1]), int(done[0][2])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    for tool in ("wrk", "taskset", "nginx"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is not installed: apt-get install wrk nginx haproxy util-linux")
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("this needs two cores")
    running = []
    with tempfile.TemporaryDirectory() as work:
        try:
            upstream = free_port()
            write(f"{work}/backend.conf", NGINX % {"work": work, "name": "backend", "http": f"""
  server {{ listen 127.0.0.1:{upstream} backlog=4096; location / {{ default_type application/json; return 200 '{BODY}'; }} }}"""})
            running.append(Running("backend", 0, ["nginx", "-c", f"{work}/backend.conf"], upstream, work))
            candidates = []
            for name, (command, port) in configure(work, upstream).items():
                candidates.append(Running(name, 1, command, port, work))
                running.append(candidates[-1])
            for missing in {"nginx", "haproxy", "tollgate (same)"} - {c.name for c in candidates}:
                print(f"left out, because it is not there: {missing}", file=sys.stderr)
            for candidate in candidates:
                load(work, candidate.port, options.connections, 1)
            figures = {candidate.name: [] for candidate in candidates}
            errors = 0
            for at in range(options.rounds):
                for candidate in candidates:
                    before = cpu_us(candidate.process.pid)
                    requests, failed = load(work, candidate.port, options.connections, options.seconds)
                    figures[candidate.name].append((cpu_us(candidate.process.pid) - before) / max(requests, 1))
                    errors += failed
                print(f"round {at + 1} of {options.rounds}", file=sys.stderr)
            print(f"CPU microseconds a request, {options.connections} connections, median of {options.rounds} rounds (least, most); ratio to haproxy by round")
            for name, values in figures.items():
                row = f"{name:20}{statistics.median(values):7.2f}  ({min(values):.2f}, {max(values):.2f})"
                if figures.get("haproxy"):
                    ratios = [a / b for a, b in zip(values, figures["haproxy"])]
                    row += f"   {statistics.median(ratios):.2f}  ({min(ratios):.2f}, {max(ratios):.2f})"
                print(row)
            if errors:
                raise SystemExit(f"{errors} requests failed: the figures say nothing")
        finally:
            for process in reversed(running):
                process.end()


main()
