"""What the benchmarks share: processes on a core of their own, their CPU time, and a backend that answers."""
import os
import random
import signal
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The gate that is measured: this tree's release build, or another that is named.
TOLLGATE = os.environ.get("TOLLGATE") or os.path.join(ROOT, "target", "release", "tollgate")

NGINX = """
worker_processes 1; pid %(work)s/%(name)s.pid; error_log %(work)s/%(name)s.err; daemon off; master_process on;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s; tcp_nodelay on;
  client_body_temp_path %(work)s/b; proxy_temp_path %(work)s/p; fastcgi_temp_path %(work)s/f; uwsgi_temp_path %(work)s/u; scgi_temp_path %(work)s/s;
  %(http)s
}
"""


# Below the ports that the kernel gives to outgoing connections, of which a generator takes thousands.
PORTS = range(20_000, 32_000)
given = set()


def free_port():
    """A port of loopback on which nobody listens, and that was not given before."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in given:
            given.add(port)
            return port


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def tree(pid):
    out = [pid]
    for p in out:
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                out += [int(c) for c in open(f"/proc/{p}/task/{task}/children").read().split()]
        except OSError:
            pass
    return out


def cpu_us(pid):
    nanos = 0
    for p in tree(pid):
        try:
            tasks = os.listdir(f"/proc/{p}/task")
        except OSError:
            continue
        for task in tasks:
            try:
                nanos += int(open(f"/proc/{p}/task/{task}/schedstat").read().split()[0])
            except (OSError, IndexError):
                pass
    return nanos / 1000


def peak_rss(pid):
    """The most memory that a process tree was resident in, in MiB, since the last `forget_peak`."""
    kib = 0
    for p in tree(pid):
        try:
            kib += int(next(line for line in open(f"/proc/{p}/status") if line.startswith("VmHWM:")).split()[1])
        except (OSError, StopIteration):
            pass
    return kib / 1024


def forget_peak(pid):
    for p in tree(pid):
        try:
            write(f"/proc/{p}/clear_refs", "5")
        except OSError:
            pass


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5) as s:
            s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return s.recv(8).startswith(b"HTTP/1.")
    except OSError:
        return False


class Running:
    """A process of ours on one core, ended by its id. It runs when `ready` says so of its port."""

    def __init__(self, name, core, command, port, work, ready=answers):
        self.name, self.port = name, port
        out = open(os.path.join(work, name.replace(" ", "_") + ".log"), "w")
        self.process = subprocess.Popen(["taskset", "-c", str(core)] + command, stdout=out, stderr=out)
        for _ in range(150):
            if ready(port):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.end()
        raise SystemExit(f"{name} did not start; see {out.name}")

    def end(self):
        pids = tree(self.process.pid)
        for sig in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, sig)
                except OSError:
                    pass
            try:
                self.process.wait(3)
                return
            except subprocess.TimeoutExpired:
                continue
