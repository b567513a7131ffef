"""Runs the load generator, `corelog-bench`, pinned beside the broker, and reads what it measured."""

import json
import subprocess
import tempfile
from pathlib import Path

import machine
from broker import PROCESSES
from machine import Failure

# a warm-up ends when the last seconds are within this of those before
STABLE_WITHIN = 0.1
STABLE_SECONDS = 5


def flags(settings):
    """{"record_size": 100, "keep_topics": True} as command line flags."""
    found = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            found.append(flag)
        elif value is not None and value is not False:
            found += [flag, str(value)]
    return found


class Load:
    """Starts load generators on the client's cores."""

    def __init__(self, binary, cores, work):
        self.binary, self.cores, self.work = binary, cores, work

    def start(self, session, mode, settings):
        """A running load; `finish` waits for it."""
        handle, path = tempfile.mkstemp(".json", "load-", self.work)
        with open(handle, "w"):
            pass
        command = [*machine.pinned(self.cores), self.binary, mode, "--bootstrap", session.bootstrap, "--json", path]
        if session.pid:
            command += ["--broker-pid", str(session.pid)]
        command += flags(settings)
        log = open(Path(path).with_suffix(".log"), "w+")
        process = PROCESSES.start(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return Running(process, command, Path(path), log)

    def run(self, session, mode, settings):
        """What the load generator measured."""
        seconds = settings.get("duration", 60) + settings.get("warmup", 0)
        return self.start(session, mode, settings).finish(seconds + 180)

    def warm_up(self, session, mode, settings, seconds, seconds_max):
        """Runs the load until its rate is stable; {"seconds", "is_stable", "records_per_second"}."""
        spent, rates = 0, []
        step = seconds
        while True:
            result = self.run(session, mode, {**settings, "warmup": 0, "duration": step, "drain": 3})
            spent += step
            side = result["produce"] or result["consume"]
            rates += [row["records"] for row in side["series"]]
            if is_stable(rates) or spent + step // 2 > seconds_max:
                return {"seconds": spent, "is_stable": is_stable(rates), "records_by_second": rates}
            step = max(seconds // 2, 2 * STABLE_SECONDS)


def is_stable(rates):
    if len(rates) < 2 * STABLE_SECONDS:
        return False
    last, before = sum(rates[-STABLE_SECONDS:]), sum(rates[-2 * STABLE_SECONDS:-STABLE_SECONDS])
    return before > 0 and abs(last - before) <= STABLE_WITHIN * before


class Running:
    """One load generator at work."""

    def __init__(self, process, command, path, log):
        self.process, self.command, self.path, self.log = process, command, path, log

    def finish(self, seconds):
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            PROCESSES.end(self.process)
            raise Failure("%s did not end within %d s" % (" ".join(self.command[3:5]), seconds)) from None
        PROCESSES.end(self.process)
        self.log.seek(0)
        words = self.log.read().strip()[-400:]
        self.log.close()
        Path(self.log.name).unlink()
        if code:
            raise Failure("%s ended with %d: %s" % (" ".join(self.command[3:]), code, words))
        result = json.loads(self.path.read_text())
        self.path.unlink()
        return result
