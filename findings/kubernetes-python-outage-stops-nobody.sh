#!/usr/bin/env bash
# Kubernetes' Python client: one refused connection to the API server, and a leader works on for ever beside the next.
#
# LeaderElection.run() promises to call onstopped_leading when the leader could not renew within its renew_deadline, as
# client-go does. An API server that restarts refuses connections for a moment; one expects retries until the deadline.
# In kubernetes 37.0.2 a refused connection is urllib3's MaxRetryError, and the locks catch ApiException only: at the
# first refused request run() ends with that exception, seconds before the deadline, without onstopped_leading. The work
# runs in a daemon thread of its own, so a program that has run() in a thread, since it blocks, goes on working with no
# renewal behind it. The API server comes back, the lease runs out, and another candidate leads as well. An HTTP error
# of a server that is there (503) is retried and ends in onstopped_leading, as promised.
#
# For leases: whoever asks "may I still act?" must compute the answer from a deadline; a callback that an error path can
# skip tells nobody. Here wrap run() and stop the work in a finally block.
# Seen (Python 3.11, Debian 12; lease_duration 6, renew_deadline 4, retry_period 1.1; an API server of a few lines that
# keeps Leases and their resourceVersion): refused for 2 s, run() ended within 1.1 s, onstopped_leading was not called,
# and both candidates worked at the same time for as long as one looked (3 s). With 503 instead it was called.
# Source: kubernetes-client/python kubernetes/leaderelection/leaderelection.py (run), resourcelock/leaselock.py.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

python_packages kubernetes==37.0.2

cat >"$work/observe.py" <<'PYTHON'
import http.server
import json
import logging
import sys
import threading
import time

from kubernetes import client
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

logging.disable(logging.CRITICAL)
threading.excepthook = lambda args: None
leases, version = {}, 0


class ApiServer(http.server.BaseHTTPRequestHandler):
    unavailable = False

    def answer(self, code, body):
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def serve(self):
        global version
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        failure = lambda code: self.answer(code, {"kind": "Status", "status": "Failure", "code": code})
        if ApiServer.unavailable:
            return failure(503)
        name = self.path.rsplit("/", 1)[1]
        if self.command == "GET":
            return self.answer(200, leases[name]) if name in leases else failure(404)
        lease = json.loads(sent)
        name = lease["metadata"]["name"]
        present = leases.get(name, {"metadata": {}})["metadata"].get("resourceVersion")
        if lease["metadata"].get("resourceVersion") != present:
            return failure(409)
        version += 1
        lease["metadata"]["resourceVersion"] = str(version)
        leases[name] = lease
        self.answer(200 if present else 201, lease)

    do_GET = do_POST = do_PUT = serve

    def log_message(self, *_):
        pass


def listen(port=0):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), ApiServer)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class Candidate:
    def __init__(self, lease, name):
        self.worked, self.stopped, self.ended = 0.0, threading.Event(), threading.Event()
        lock = LeaseLock(lease, "default", name)
        config = electionconfig.Config(lock, 6, 4, 1.1, self.work, self.stopped.set)
        threading.Thread(target=self.run, args=(config,), daemon=True).start()

    def run(self, config):
        try:
            leaderelection.LeaderElection(config).run()
        finally:
            self.ended.set()

    def work(self):
        while not self.stopped.is_set():
            self.worked = time.monotonic()
            time.sleep(0.05)

    def works(self):
        return time.monotonic() - self.worked < 1

    def begins(self, limit):
        until = time.monotonic() + limit
        while not self.works():
            if time.monotonic() > until:
                sys.exit("CHANGED: a candidate did not lead in its time")
            time.sleep(0.05)


server = listen()
port = server.server_address[1]
configuration = client.Configuration()
configuration.host = f"http://127.0.0.1:{port}"
client.Configuration.set_default(configuration)

first = Candidate("refused", "first")
first.begins(10)
server.shutdown()
server.server_close()
refused = time.monotonic()
ended = first.ended.wait(3)
after = time.monotonic() - refused
time.sleep(max(0, 2 - after))
server = listen(port)
if not ended or first.stopped.is_set():
    sys.exit("CHANGED: a refused connection no longer ends run() without onstopped_leading")
second = Candidate("refused", "second")
second.begins(15)
together = 0.0
while together < 3:
    time.sleep(0.5)
    together += 0.5
    if not (first.works() and second.works()):
        sys.exit("CHANGED: the two do not work at the same time")
print(f"refused for 2s: run() ended after {after:.1f}s, onstopped_leading was not called, both worked for {together:.0f}s")

third = Candidate("answered-503", "third")
third.begins(10)
ApiServer.unavailable = True
if not third.stopped.wait(12):
    sys.exit("CHANGED: with 503 onstopped_leading is not called either")
print("503 for as long: onstopped_leading was called")
PYTHON
run 120 "$python" "$work/observe.py"
