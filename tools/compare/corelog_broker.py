"""Corelog with its shipped defaults: only cores, addresses and directory are given."""

import urllib.request

import broker
import machine
from machine import Failure
from results import CORELOG
from session import Subject


class Corelog(Subject):
    durable = True

    def __init__(self, work, cores, settings, binary, variant=""):
        super().__init__(CORELOG, work, cores, variant)
        self.settings, self.binary = settings, binary

    def launch(self):
        self.admin = "127.0.0.1:%d" % broker.free_port()
        flags = ["--cores", ",".join(map(str, self.cores)), "--admin", self.admin]
        for name, value in self.settings.items():
            flags += ["--set", "%s=%s" % (name, value)]
        log = self.work / "corelog.log"
        return broker.Corelog(self.binary, self.data, log, machine.pinned(self.cores), flags)

    def counters(self):
        """{name: value} of the metrics that are not of one shard."""
        try:
            with urllib.request.urlopen("http://%s/metrics" % self.admin, timeout=10) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise Failure("no metrics at %s: %s" % (self.admin, error)) from error
        found = {}
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            if name.endswith('{shard="total"}'):
                found[name.partition("{")[0]] = float(value)
        return found
