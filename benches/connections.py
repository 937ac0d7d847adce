#!/usr/bin/env python3
"""What connections cost: memory when nothing happens, memory a connection, and CPU a request as connections grow.

    cargo build --release && benches/connections.py [--workers 2] [--seconds 2] [--tollgate PATH] [--only memory|work]

Memory is the gate's resident set (`VmRSS`); the kernel's socket buffers are not in it. Rows:

    idle            started, no connection: state in memory, then state in a directory
    N opened        N keep-alive connections that have sent nothing yet
    N used          the same, a moment after each has made one request
    N left alone    the same, 20 s later
    N at work       N connections that all have a request under way, again and again, for --seconds; CPU time of the gate
                    a request (/proc/PID/task/*/schedstat), and the largest resident set meanwhile

The gate has everything on: key, scope, allowlist, three limits, a quota, records, limit and identity headers, metrics. The backend
and the load are processes of this one. Traffic stays on loopback, every run is bounded and ends what it started. Needs wrk for the
rows at work (Debian's package), and two descriptors a connection: `ulimit -n 21000` allows 10 000.
"""
import argparse
import hashlib
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from processes import TOLLGATE, cpu_us, free_port, tree, write

HELD = (64, 512, 4_096, 10_000)
AT_WORK = (64, 512, 4_096)
# A connection gives its buffers back within eight seconds; the allocator keeps what it has for ten more.
LEFT_ALONE = 20
PATIENCE = 60

POLICY = """
version: 1
listen: 127.0.0.1:%(port)d
upstream: http://127.0.0.1:%(upstream)d
admin: none
state: %(state)s
workers: %(workers)d
record: { to: records.jsonl }
credentials: { accept: [bearer], keys: bench.keys.yaml }
routes:
  - { name: items, match: GET /api/v1/items, scope: read }
limits:
  throttle: { rate: 100000000/minute, per: key }
  window: { rate: 100000000/minute, window: sliding, per: tenant }
  address: { rate: 100000000/minute, per: address }
  monthly: { quota: 1000000000/month, per: tenant }
tenants:
  acme: { allow: [127.0.0.0/8, 10.0.0.0/8, 192.168.0.0/16, 2001:db8::/32] }
report: { x-ratelimit: unix, retry-after: true, ratelimit: draft10 }
identity: { tenant: X-Tenant-Id, key: X-Key-Id }
"""

REQUEST = b"GET /api/v1/items?id=42 HTTP/1.1\r\nHost: api.example\r\nAccept: application/json\r\nAuthorization: Bearer bench-secret\r\n\r\n"
BODY = b'{"id":"0192f0c1-7d3b-7cc3-98c4-dc0c0c07398f","status":"ok"}'

BACKEND = """
import selectors, socket
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
print(listener.getsockname()[1], flush=True)
body = %r
answer = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %%d\\r\\n\\r\\n%%b" %% (len(body), body)
ready = selectors.EpollSelector()
ready.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in ready.select():
        if key.fileobj is listener:
            client = listener.accept()[0]
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(client, selectors.EVENT_READ)
            continue
        try:
            heads = key.fileobj.recv(65536).count(b"\\r\\n\\r\\n")
            if heads:
                key.fileobj.sendall(answer * heads)
        except OSError:
            heads = 0
        if not heads:
            ready.unregister(key.fileobj)
            key.fileobj.close()
"""

WRK = """
wrk.headers["Authorization"] = "Bearer bench-secret"
wrk.headers["Accept"] = "application/json"
done = function(summary)
  local e = summary.errors
  io.write(string.format("DONE %d %d\\n", summary.requests, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def resident(pid):
    """KiB."""
    return sum(int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{p}/status").read()).group(1)) for p in tree(pid))


class Rig:
    """A backend and a gate before it, ended together."""

    def __init__(self, binary, workers, state):
        self.work = tempfile.mkdtemp()
        self.backend = subprocess.Popen([sys.executable, "-c", BACKEND % BODY], stdout=subprocess.PIPE, text=True)
        upstream = int(self.backend.stdout.readline())
        self.port = free_port()
        digest = hashlib.sha256(b"bench-secret").hexdigest()
        write(f"{self.work}/bench.keys.yaml", f"- {{ id: bench, tenant: acme, digest: {{ sha256: {digest} }}, scopes: [read] }}\n")
        write(f"{self.work}/policy.yaml", POLICY % {"port": self.port, "upstream": upstream, "workers": workers, "state": state})
        write(f"{self.work}/wrk.lua", WRK)
        self.log = open(f"{self.work}/gate.log", "w")
        self.gate = subprocess.Popen([binary, "run", "--config", f"{self.work}/policy.yaml"], stdout=self.log, stderr=self.log)
        for _ in range(PATIENCE * 10):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.gate.poll() is not None:
                    raise SystemExit(open(f"{self.work}/gate.log").read())
                time.sleep(0.1)
        raise SystemExit("the gate did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gate.terminate()
        try:
            self.gate.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.gate.kill()
        self.backend.terminate()
        self.backend.wait()
        self.log.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def resident(self):
        return resident(self.gate.pid)

    def open(self, count):
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clients.append(client)
        return clients

    @staticmethod
    def ask_each(clients, together=64):
        """One request on each, so many at a time: what is measured afterwards is what connections keep, not what they need at once."""
        for at in range(0, len(clients), together):
            some = clients[at : at + together]
            for client in some:
                client.sendall(REQUEST)
            for client in some:
                answer = b""
                while not answer.endswith(BODY):
                    more = client.recv(65536)
                    if not more:
                        raise SystemExit("the gate closed a connection")
                    answer += more
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise SystemExit(answer.decode())

    def at_work(self, connections, seconds):
        """Requests, microseconds of CPU a request, and the largest resident set in KiB."""
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", f"{self.work}/wrk.lua", f"http://127.0.0.1:{self.port}/api/v1/items?id=42"]
        before = cpu_us(self.gate.pid)
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        largest = 0
        while load.poll() is None:
            largest = max(largest, self.resident())
            time.sleep(0.1)
        out = load.stdout.read()
        done = re.search(r"DONE (\d+) (\d+)", out)
        if not done or int(done.group(2)) or not int(done.group(1)):
            raise SystemExit(f"wrk at {connections} connections: {out}")
        return int(done.group(1)), (cpu_us(self.gate.pid) - before) / int(done.group(1)), largest


def mib(kib):
    return f"{kib / 1024:6.1f} MiB"


def memory(binary, workers, most):
    with tempfile.TemporaryDirectory() as kept:
        for state in ("memory", f"{kept}/state"):
            with Rig(binary, workers, state) as rig:
                time.sleep(1)
                print(f"{'idle, state in ' + ('memory' if state == 'memory' else 'a directory'):32}{mib(rig.resident())}", flush=True)
    for count in HELD:
        if count > most:
            print(f"{count:6} connections: left out, only {most} allowed by the limit of descriptors")
            continue
        with Rig(binary, workers, "memory") as rig:
            # The first requests make what the gate needs once.
            few = rig.open(8)
            rig.ask_each(few)
            for client in few:
                client.close()
            time.sleep(0.2)
            base = rig.resident()

            def row(what):
                now = rig.resident()
                print(f"{count:6} {what:25}{mib(now)}  {(now - base) / count:6.2f} KiB a connection", flush=True)

            clients = rig.open(count)
            time.sleep(0.5)
            row("opened")
            rig.ask_each(clients)
            time.sleep(0.2)
            row("used")
            time.sleep(LEFT_ALONE)
            row("left alone")
            rig.ask_each(clients[:16])
            for client in clients:
                client.close()


def work(binary, workers, seconds, most):
    if not shutil.which("wrk"):
        print("no rows at work: wrk is not installed (Debian's package of that name)")
        return
    for count in AT_WORK:
        if count > most:
            print(f"{count:6} at work: left out, only {most} allowed by the limit of descriptors")
            continue
        with Rig(binary, workers, "memory") as rig:
            rig.at_work(8, 1)
            requests, cost, largest = rig.at_work(count, seconds)
            print(f"{count:6} {'at work':25}{mib(largest)}  {cost:6.1f} us of CPU a request, {requests} requests", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=2, choices=range(1, 61), metavar="1-60")
    parser.add_argument("--tollgate", default=TOLLGATE)
    parser.add_argument("--only", choices=("memory", "work"))
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A few for everything else.
    most = hard - 200
    if options.only != "work":
        memory(options.tollgate, options.workers, most)
    if options.only != "memory":
        # The gate has as many upstream connections as requests under way.
        work(options.tollgate, options.workers, options.seconds, most // 2)


main()
