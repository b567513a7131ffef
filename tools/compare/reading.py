"""W6, W7 and W8: what delivering costs, from memory and from a cold disk, and what doing nothing costs."""

import time

from machine import GIB, Failure
from stage import GB, MB, cpu_per_gb
from workload import Workload

STEADY = {  # 50 MB/s
    "partitions": 8, "record_size": 1000, "batch_size": 65536, "linger": 5, "acks": "all", "connections": 1,
    "in_flight": 5, "rate": 50_000,
}
FILLING = {
    "partitions": 8, "record_size": 1024, "batch_size": 65536, "acks": "all", "connections": 8, "in_flight": 5,
    "rate": "max",
}
FILL_STEP_SECONDS = 5
FILL_STEPS_MAX = 120


def fill(stage, topic, settings, wanted):
    """Produces at full speed until the topic holds that many bytes; the bytes."""
    stage.create(topic, settings)
    held = 0
    for _ in range(FILL_STEPS_MAX):
        seconds = FILL_STEP_SECONDS if held < wanted / 2 or not held else 2
        part = stage.load_once("produce", settings, topic, {"warmup": 0, "duration": seconds})["produce"]
        held += part["wire_bytes"]
        if held >= wanted:
            return held
    raise Failure("%s holds %.1f GiB only after %d loads" % (topic, held / GIB, FILL_STEPS_MAX))


class FanOut(Workload):
    """W6: five consumers at the tail of one producer."""

    name, title = "W6", "one producer at 50 MB/s, five consumers at the tail"
    columns = [("delivered_mb_per_second", "delivered MB/s"), ("cpu_seconds_per_gb_delivered", "broker CPU s/GB delivered"),
               ("p99_ms", "producer's p99 ms")]
    ratio = "cpu_seconds_per_gb_delivered"
    consumers = 5

    def measure(self, stage):
        settings = {**STEADY, "consumers": self.consumers}
        stage.warm_up("mixed", settings)
        load = stage.run("load", "mixed", settings)
        produced, consumed = load["produce"], load["consume"]
        stage.figures["delivered_mb_per_second"] = consumed["bytes_per_second"] / MB
        stage.figures["cpu_seconds_per_gb_delivered"] = cpu_per_gb(load["broker_cpu_seconds"], consumed["wire_bytes"])
        stage.latency(produced)
        share = consumed["records"] / (self.consumers * produced["records"])
        if not 0.95 <= share <= 1.05:
            raise Failure("consumers got %.2f of what was produced five times" % share)


class ColdBacklog(Workload):
    """W7: a backlog that is in no cache is drained while a producer goes on."""

    name, title = "W7", "a consumer drains 8 GiB from a cold page cache beside a producer at 50 MB/s"
    columns = [("drain_mb_per_second", "drain MB/s"), ("drain_alone_mb_per_second", "alone MB/s"),
               ("p99_ms", "producer's p99 ms"), ("undisturbed_p99_ms", "undisturbed p99 ms")]
    ratio = "drain_mb_per_second"
    needs_process = True
    held_bytes = 8 * GIB

    def measure(self, stage):
        wanted = self.held_bytes if not stage.plan.shorten else GIB
        stage.figures["backlog_gb"] = fill(stage, "backlog", FILLING, wanted) / GB
        stage.restart_cold()
        alone = self.drain(stage, "alone")
        stage.figures["drain_alone_mb_per_second"] = alone["wire_bytes"] / alone["seconds"] / MB
        stage.restart_cold()
        undisturbed = stage.run("undisturbed", "produce", STEADY, stage.plan.short_seconds)["produce"]
        stage.latency(undisturbed, "undisturbed_")
        # the producer is measured while the backlog is drained: as long as that takes
        stage.create("live", STEADY)
        settings = {"warmup": 3, "duration": max(2.0, round(0.9 * alone["seconds"], 1))}
        producer = stage.load_started("produce", STEADY, "live", settings)
        time.sleep(settings["warmup"])
        drained = self.drain(stage, "drain")
        live = stage.keep("live", producer.finish(300))["produce"]
        stage.figures["drain_mb_per_second"] = drained["wire_bytes"] / drained["seconds"] / MB
        stage.latency(live)

    @staticmethod
    def drain(stage, part):
        result = stage.load_once("consume", {"until_end": True}, "backlog", {"warmup": 0, "duration": 600})
        return stage.keep(part, result)["consume"]


class Cost(Workload):
    """W8: processor and memory for each GB, and for nothing at all."""

    name, title = "W8", "CPU per GB, idle with 1,000 connections and 1,000 partitions, memory"
    columns = [("produce_cpu_seconds_per_gb", "produce CPU s/GB"), ("consume_cpu_seconds_per_gb", "consume CPU s/GB"),
               ("idle_cpu_percent", "idle % of a core"), ("idle_rss_mb", "idle RSS MB"), ("loaded_rss_mb", "loaded RSS MB")]
    ratio = "produce_cpu_seconds_per_gb"
    needs_process = True
    idle = {"partitions": 1000, "connections": 1000}
    settle_seconds = 5

    def measure(self, stage):
        stage.warm_up("produce", FILLING)
        produced = stage.run("produced", "produce", FILLING, stage.plan.short_seconds, keep=True)
        stage.figures["produce_cpu_seconds_per_gb"] = cpu_per_gb(
            produced["broker_cpu_seconds"], produced["produce"]["wire_bytes"])
        result = stage.load_once("consume", {"until_end": True}, "produced", {"warmup": 0, "duration": 600})
        consumed = stage.keep("consumed", result)
        stage.figures["consume_cpu_seconds_per_gb"] = cpu_per_gb(
            consumed["broker_cpu_seconds"], consumed["consume"]["wire_bytes"])
        stage.figures["loaded_rss_mb"] = stage.usage().resident_bytes / MB
        stage.delete("produced")
        self.measure_idle(stage)

    def measure_idle(self, stage):
        """A new process: what an earlier load left in memory is not idle."""
        stage.session.stop()
        stage.session = stage.subject.start()
        stage.create("idle", self.idle)
        seconds = stage.plan.short_seconds
        flags = {"connections": self.idle["connections"]}
        idle = stage.load_started("idle", flags, "idle", {"warmup": 0, "duration": seconds + 3 * self.settle_seconds})
        time.sleep(2 * self.settle_seconds)
        before, started = stage.usage(), time.monotonic()
        time.sleep(seconds)
        after, elapsed = stage.usage(), time.monotonic() - started
        stage.keep("idle", idle.finish(60))
        stage.figures["idle_cpu_percent"] = 100 * (after.cpu_seconds - before.cpu_seconds) / elapsed
        stage.figures["idle_rss_mb"] = after.resident_bytes / MB


W6, W7, W8 = FanOut(), ColdBacklog(), Cost()
