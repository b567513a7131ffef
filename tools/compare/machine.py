"""The machine that is measured: what it is, whether it will do, and its state between two brokers."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

VOLATILE = ("tmpfs", "ramfs")
GIB = 1 << 30
BROKER_SOURCES = ("src", "Cargo.toml", "Cargo.lock")
PAGES = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


class Refused(Exception):
    """Why nothing can be measured here."""


class Failure(Exception):
    """Why one figure could not be measured."""


def mount_of(directory):
    """The mount that holds the directory: {"point", "type", "device", "options"}."""
    path, found = Path(directory).resolve(), None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        point, options = left.split()[4].replace("\\040", " "), left.split()[5]
        kind, device, more = right.split(" ", 2)
        if path.is_relative_to(point) and (found is None or len(point) >= len(found["point"])):
            found = {"point": point, "type": kind, "device": device, "options": "%s,%s" % (options, more)}
    return found


def check_disk(directory, needed_bytes):
    """Refuses a directory that would lose everything at a power cut, or that is too small."""
    mount = mount_of(directory)
    if mount["type"] in VOLATILE:
        raise Refused("%s is on %s: durable writes cannot be measured there; choose another --data" % (directory, mount["type"]))
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise Refused("%s has %.1f GiB free, %.1f GiB are needed; choose another --data"
                      % (directory, free / GIB, needed_bytes / GIB))


def check_cores(broker_cores, client_cores):
    allowed = os.sched_getaffinity(0)
    for core in broker_cores + client_cores:
        if core not in allowed:
            raise Refused("core %d is not among those that this process may use: %s" % (core, sorted(allowed)))
    if set(broker_cores) & set(client_cores):
        raise Refused("broker and client need a core each: --broker-cores and --client-cores overlap")


def pinned(cores):
    """The command prefix that keeps a process and all its threads on these cores."""
    return ["taskset", "-c", ",".join(map(str, cores))]


def settle():
    """Writes everything back and empties the page cache; whether the second was allowed (root)."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except PermissionError:
        return False
    return True


def words(*command):
    """What a command prints, or None if it cannot."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe(directory, root):
    """Everything about machine and source that a figure depends on."""
    cpu = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        cpu.setdefault(name.strip(), value.strip())
    changed = words("git", "-C", str(root), "status", "--porcelain", "--", *BROKER_SOURCES) or ""
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    java = subprocess.run(["java", "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    return {
        # of the broker: what only touches tools and documents changes no figure
        "commit": words("git", "-C", str(root), "log", "-1", "--format=%H", "--", *BROKER_SOURCES),
        "changed_files": len(changed.splitlines()),
        "kernel": platform.release(),
        "cpu": cpu.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in cpu.get("flags", "").split(),
        "memory_bytes": int(memory["MemTotal"].split()[0]) * 1024,
        "filesystem": mount_of(directory),
        "java": java.splitlines()[1].strip() if len(java.splitlines()) > 1 else java.strip(),
    }


class Usage:
    """What a running process has used so far."""

    def __init__(self, pid):
        fields = Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()
        self.cpu_seconds = (int(fields[11]) + int(fields[12])) / TICKS
        self.resident_bytes = int(fields[21]) * PAGES
        counters = dict(line.split(": ") for line in Path("/proc/%d/io" % pid).read_text().splitlines())
        self.written_bytes, self.read_bytes = int(counters["write_bytes"]), int(counters["read_bytes"])
