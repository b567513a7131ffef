"""What the machine gives at most, measured in the same run: the disk, loopback, and bare loops on one core.

The figures are best of three. fio and iperf3 come from Debian; the loops are tools/compare/limits.
"""

import json
import shutil
import subprocess
import time
from pathlib import Path

import install
import machine
from broker import PROCESSES, free_port
from programs import ROOT, TARGET
from machine import Failure

FILE_BYTES = 4 << 30
TRIES = 3
FIO_SECONDS, IPERF_SECONDS, LOOP_SECONDS = 20, 5, 3
# (block, depth) of the disk requests that a loop is tried with
DURABLE_SHAPES = [(512 << 10, 4), (512 << 10, 6), (1 << 20, 4)]
DIRECT_SHAPES = [(512 << 10, 8), (1 << 20, 4), (1 << 20, 8)]


def install_tools():
    """None, or what could not be installed."""
    missing = [tool for tool in ("fio", "iperf3") if not shutil.which(tool)]
    try:
        if missing:
            install.apt(*missing)
    except RuntimeError as error:
        return str(error)
    return None


def ran(command, seconds):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=seconds)
    if done.returncode:
        raise Failure("%s: %s" % (" ".join(command[:5]), (done.stderr or done.stdout).strip()[-300:]))
    return done.stdout


def await_listener(port):
    """Waits until something listens on the port; a connection of ours would be the one that it waits for."""
    wanted = ":%04X" % int(port)
    for _ in range(100):
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        if any(row[1].endswith(wanted) and row[3] == "0A" for row in rows):
            return
        time.sleep(0.05)
    raise Failure("iperf3 does not listen")


class Limits:
    """Runs the measurements; `measure` returns what stands under `limits` in the JSON."""

    def __init__(self, work, broker_core, client_core, shorten, quick):
        self.file = work / "limits.dat"
        self.broker_core, self.client_core = broker_core, client_core
        self.tries = 1 if shorten else TRIES
        self.loop_tries = 1 if quick else self.tries  # of each shape: a loop has three
        self.fio_seconds = shorten or FIO_SECONDS
        self.loop_seconds = shorten or LOOP_SECONDS
        self.loops = str(TARGET / "release" / "corelog-limits")

    def measure(self):
        install.command("cargo", "build", "--release", "-p", "corelog-limits", directory=ROOT)
        try:
            ran([self.loops, "prepare", "--file", str(self.file), "--bytes", str(FILE_BYTES)], 300)
            return {
                "tries": self.tries,
                "durable_write": self.best(self.fio),
                "loopback": self.best(self.iperf3),
                "durable_loop": self.loop("durable", DURABLE_SHAPES),
                "sendfile_loop": self.loop("sendfile", [(1 << 20, 1)]),
                "direct_loop": self.loop("direct", DIRECT_SHAPES),
                "memory_loop": self.loop("memory", [(512 << 10, 1)]),
            }
        finally:
            self.file.unlink(missing_ok=True)

    def best(self, measure, *arguments):
        found = [measure(*arguments) for _ in range(self.tries)]
        best = max(found, key=lambda result: result["bytes_per_second"])
        return {**best, "all_bytes_per_second": [result["bytes_per_second"] for result in found]}

    def fio(self):
        command = ["fio", "--name=durable", "--filename=%s" % self.file, "--rw=write", "--bs=1M", "--iodepth=4",
                   "--ioengine=io_uring", "--direct=1", "--sync=dsync", "--overwrite=1", "--size=%d" % FILE_BYTES,
                   "--time_based", "--runtime=%d" % self.fio_seconds, "--cpus_allowed=%d" % self.broker_core,
                   "--output-format=json"]
        text = ran(command, self.fio_seconds + 120)
        write = json.loads(text[text.index("{"):])["jobs"][0]["write"]
        return {"bytes_per_second": write["bw_bytes"], "command": command[:-1]}

    def iperf3(self):
        port = str(free_port())
        receiver = [*machine.pinned([self.broker_core]), "iperf3", "-s", "-1", "-p", port, "-B", "127.0.0.1"]
        sender = [*machine.pinned([self.client_core]), "iperf3", "-c", "127.0.0.1", "-p", port,
                  "-t", str(min(IPERF_SECONDS, self.fio_seconds)), "-J"]
        server = PROCESSES.start(receiver, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await_listener(port)
            result = json.loads(ran(sender, 60))
        finally:
            PROCESSES.end(server)
        return {"bytes_per_second": result["end"]["sum_received"]["bits_per_second"] / 8, "command": sender}

    def loop(self, name, shapes):
        """The fastest of the shapes, best of the tries; cold for those that read the file."""
        found = []
        for block, depth in shapes:
            command = [self.loops, name, "--file", str(self.file), "--core", str(self.broker_core),
                       "--peer-core", str(self.client_core), "--seconds", str(self.loop_seconds),
                       "--block", str(block), "--depth", str(depth)]
            for _ in range(self.loop_tries):
                machine.settle()
                found.append({**json.loads(ran(command, self.loop_seconds + 60)), "command": command[1:]})
        fastest = max(found, key=lambda result: result["bytes_per_second"])
        cheapest = min(result["cpu_seconds_per_gb"] for result in found)
        return {**fastest, "cheapest_cpu_seconds_per_gb": cheapest,
                "all_bytes_per_second": [result["bytes_per_second"] for result in found]}
