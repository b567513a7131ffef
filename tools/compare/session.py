"""One broker, running and pinned, from a fresh data directory to its end.

`Subject` is what can be started; `Session` is one that runs. Brokers of other makers that somebody else
started (--broker NAME=HOST:PORT) are subjects too: nothing is known of their process.
"""

import os
import resource
import shutil
import struct
import time

import broker
import machine
import wire
from machine import Failure

BROKER = 4  # the resource type in DescribeConfigs


class Session:
    """A running broker. `usage` and `settle` know nothing of a broker that was not started here."""

    def __init__(self, subject, server, bootstrap):
        self.subject, self.server, self.bootstrap = subject, server, bootstrap
        self.cpu_seconds_in_all = self.written_bytes_in_all = None  # known once it has stopped

    @property
    def pid(self):
        return self.server.process.pid if self.server else None

    def usage(self):
        return machine.Usage(self.pid) if self.server else None

    def configuration(self):
        """Every setting that the broker says it has."""
        with wire.Connection(self.bootstrap) as connection:
            node = connection.metadata("")[1][0][0]
            asked = struct.pack(">b", BROKER) + wire.string(str(node)) + struct.pack(">i", -1)
            reader = connection.request(32, 1, wire.array([asked]) + b"\0")
            reader.i32()
            found = {}

            def setting():
                name, value = reader.string(), reader.string()
                reader.take(3)
                reader.array(lambda: (reader.string(), reader.string(), reader.i8()))
                found[name] = value

            for code, message in reader.array(
                    lambda: (reader.i16(), reader.string(), reader.i8(), reader.string(), reader.array(setting))[:2]):
                if code:
                    raise wire.WireError("describe configs: error code %d, %s" % (code, message))
        return dict(sorted(found.items()))

    def kill(self):
        self.server.kill()

    def stop(self):
        """Stops the broker and returns the seconds that it took: what was not yet in its place is written now."""
        if not self.server:
            return 0.0
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        wrong = self.server.stop()
        seconds = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu_seconds_in_all = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.written_bytes_in_all = (after.ru_oublock - before.ru_oublock) * 512
        if wrong:
            raise Failure(wrong)
        return seconds


class Subject:
    """A broker that can be started. `variant` tells rows of one broker apart; `topic_config` makes the difference."""

    durable = False
    started_here = True

    def __init__(self, name, work, cores, variant="", topic_config=()):
        self.name, self.work, self.cores = name, work, cores
        self.variant, self.topic_config = variant, dict(topic_config)
        self.data = work / "data"

    @property
    def label(self):
        return "%s, %s" % (self.name, self.variant) if self.variant else self.name

    def launch(self):
        """The server process, started on `self.data`."""
        raise NotImplementedError

    def start(self, fresh=True):
        """A session on an empty directory and a cold cache, once it answers."""
        if fresh:
            shutil.rmtree(self.data, ignore_errors=True)
            self.data.mkdir(parents=True)
        machine.settle()
        server = self.launch()
        wrong = broker.await_broker(server.bootstrap, server, 60)
        if wrong:
            server.kill()
            raise Failure(wrong)
        return Session(self, server, server.bootstrap)

    def launch_again(self):
        """(time, session) of a start on the same directory and a cold cache that nobody has waited for."""
        machine.settle()
        started = time.monotonic()
        server = self.launch()
        return started, Session(self, server, server.bootstrap)

    def counters(self):
        """The broker's own counters by name; None for a broker that has none."""
        return None

    def clear(self):
        shutil.rmtree(self.data, ignore_errors=True)
        os.sync()


class Elsewhere(Subject):
    """A broker that runs already; nothing is known of its process, its disk or its flushes."""

    started_here = False

    def __init__(self, name, bootstrap):
        self.name, self.bootstrap, self.variant, self.topic_config = name, bootstrap, "", {}

    def start(self, fresh=True):
        machine.settle()
        wrong = broker.await_broker(self.bootstrap, None, 10)
        if wrong:
            raise Failure(wrong)
        return Session(self, None, self.bootstrap)

    def clear(self):
        pass
