"""Starts and stops brokers for the checks."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import wire
from programs import CACHE, KAFKA


class Processes:
    """Every process that is running now, so that all of them end with the run."""

    def __init__(self):
        self.running, self.lock, self.ended = set(), threading.Lock(), False

    def start(self, arguments, **options):
        with self.lock:
            if self.ended:
                raise OSError("the run has ended")
            process = subprocess.Popen(arguments, start_new_session=True, **options)
            self.running.add(process)
        return process

    def end(self, process, number=signal.SIGKILL):
        """Sends a signal to the process and to all that it started."""
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        if number == signal.SIGKILL:
            process.wait()
            with self.lock:
                self.running.discard(process)

    def end_all(self):
        with self.lock:
            self.ended = True
        for process in list(self.running):
            self.end(process)


PROCESSES = Processes()
TEMPORARY = set()  # directories that go with the brokers that use them


def end_all_on_signals():
    """Ctrl-C and SIGTERM leave no process and no data directory behind."""

    def leave(*_):
        PROCESSES.end_all()
        for directory in TEMPORARY:
            shutil.rmtree(directory, ignore_errors=True)
        os._exit(1)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A broker process: its command line, its address, what it said."""

    stop_seconds = 10

    def __init__(self, arguments, bootstrap, log):
        self.bootstrap, self.log = bootstrap, log
        with open(log, "w") as output:
            self.process = PROCESSES.start(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def ended(self):
        return self.process.poll() is not None

    def kill(self):
        PROCESSES.end(self.process)

    def stop(self):
        """Stops it with SIGTERM; None, or what was wrong with its end."""
        if self.ended():
            wrong = "the broker ended by itself with %d; see %s" % (self.process.returncode, self.log)
        else:
            PROCESSES.end(self.process, signal.SIGTERM)
            try:
                code = self.process.wait(self.stop_seconds)
                wrong = None if code in self.good_codes else "the broker stopped with %d; see %s" % (code, self.log)
            except subprocess.TimeoutExpired:
                wrong = "the broker did not stop within %d s; see %s" % (self.stop_seconds, self.log)
        self.kill()
        return wrong


class Corelog(Server):
    """A Corelog broker on a free port, in a data directory that goes with it unless it is given.

    `prefix` is a command that starts it (taskset), `flags` are more flags of `serve`.
    """

    good_codes = (0,)

    def __init__(self, binary, data=None, log=CACHE / "broker.log", prefix=(), flags=("--admin", "off")):
        self.temporary = data is None
        self.data = Path(data or tempfile.mkdtemp(prefix="data-", dir=CACHE))
        if self.temporary:
            TEMPORARY.add(self.data)
        bootstrap = "127.0.0.1:%d" % free_port()
        command = [*prefix, binary, "serve", "--listen", bootstrap, "--data-dir", str(self.data), *flags]
        super().__init__(command, bootstrap, log)

    def stop(self):
        wrong = super().stop()
        if self.temporary:
            shutil.rmtree(self.data, ignore_errors=True)
        return wrong


class Kafka(Server):
    """Apache Kafka on a free port, one node as broker and controller; formats the directory if it is new.

    `java` is the JVM with its flags and Kafka's jars, `prefix` a command that starts it (taskset); `settings`
    are added to server.properties, which is written beside the log.
    """

    good_codes, stop_seconds = (0, 143), 60

    def __init__(self, data, log, java=KAFKA, prefix=(), settings=()):
        port, controller = free_port(), free_port()
        self.data = Path(data)
        self.settings = {
            "process.roles": "broker,controller", "node.id": 1,
            "controller.quorum.voters": "1@127.0.0.1:%d" % controller,
            "listeners": "PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d" % (port, controller),
            "advertised.listeners": "PLAINTEXT://127.0.0.1:%d" % port,
            "controller.listener.names": "CONTROLLER", "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": data, "offsets.topic.replication.factor": 1,
            **dict(settings),
        }
        config = log.with_name("server.properties")
        config.write_text("".join("%s=%s\n" % setting for setting in self.settings.items()))
        if not (self.data / "meta.properties").exists():
            self.format(config)
        super().__init__([*prefix, *java, "kafka.Kafka", str(config)], "127.0.0.1:%d" % port, log)

    @staticmethod
    def format(config):
        tool = KAFKA + ["kafka.tools.StorageTool", "format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c", str(config)]
        done = subprocess.run(tool, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        if done.returncode:
            raise OSError("kafka.tools.StorageTool: " + done.stdout[-300:])


def await_broker(bootstrap, server, seconds=30):
    """None as soon as the broker answers, or why it does not."""
    end, why = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        if server and server.ended():
            words = server.log.read_text().strip()[-300:]
            return "the broker ended with %d: %s" % (server.process.returncode, words)
        try:
            with wire.Connection(bootstrap, 5) as connection:
                connection.metadata("")
            return None
        except (OSError, wire.WireError) as error:
            why = str(error)
            time.sleep(0.1)
    return "no broker answers at %s: %s" % (bootstrap, why)
