"""W3, W4, W5 and W11: what one record waits, at a rate that does not depend on the broker."""

from results import CORELOG, KAFKA
from stage import cpu_per_gb
from workload import Workload

PERCENTILES = [("p50_ms", "p50 ms"), ("p99_ms", "p99 ms"), ("p99_9_ms", "p99.9 ms"), ("p99_99_ms", "p99.99 ms"),
               ("max_ms", "max ms")]


class EndToEnd(Workload):
    """W3: from the moment a record was due to the moment a consumer has it."""

    name, title = "W3", "end-to-end latency at half of Kafka's W1 rate"
    columns = [("records_per_second", "records/s"), *PERCENTILES]
    ratio = "p99_ms"
    needs_w1 = (KAFKA,)
    parts_with_percentiles = (("load", "end_to_end"),)
    settings = {
        "partitions": 8, "record_size": 100, "batch_size": 65536, "acks": "all", "linger": 1, "connections": 1,
        "in_flight": 5, "consumers": 1,
    }

    def measure(self, stage):
        settings = {**self.settings, "rate": round(stage.plan.w1_rates[KAFKA] / 2)}
        stage.warm_up("end-to-end", settings)
        load = stage.run("load", "end-to-end", settings, 2 * stage.plan.short_seconds)
        stage.latency(load["end_to_end"])
        stage.figures["records_per_second"] = load["produce"]["records_per_second"]
        stage.figures["broker_cpu_seconds_per_gb"] = cpu_per_gb(load["broker_cpu_seconds"], load["produce"]["wire_bytes"])


class SmallRequests(Workload):
    """W4: one record a request; then as many as the broker takes under the same rules."""

    name, title = "W4", "one 100-byte record a request, 30,000 a second over 100 partitions and 32 connections"
    columns = [("records_per_second", "records/s"), *PERCENTILES, ("saturation_per_second", "saturated at records/s")]
    ratio = "p99_ms"
    has_flushed = has_flushed_when_quick = True
    parts_with_percentiles = (("load", "produce"),)
    settings = {
        "partitions": 100, "record_size": 100, "batch_size": 1, "linger": 0, "acks": "all", "connections": 32,
        "in_flight": 5, "rate": 30_000,
    }

    def measure(self, stage):
        stage.warm_up("produce", self.settings)
        load = stage.run("load", "produce", self.settings, stage.plan.short_seconds)
        stage.latency(load["produce"])
        stage.figures["records_per_second"] = load["produce"]["records_per_second"]
        saturated = stage.run("saturated", "produce", {**self.settings, "rate": "max"}, stage.plan.short_seconds // 2)
        stage.figures["saturation_per_second"] = saturated["produce"]["records_per_second"]
        stage.figures["saturation_p99_ms"] = saturated["produce"]["latency_us"]["p99"] / 1000


class ManyPartitions(Workload):
    """W5: the same load over 10 partitions and over 2,000: one commit for all of them, or one each?"""

    name, title = "W5", "2,000 partitions, keyed, 20,000 records/s, one record a batch, one partition a request"
    columns = [("records_per_second", "records/s"), *PERCENTILES, ("few_p99_ms", "p99 ms of 10 partitions"),
               ("p99_ratio", "p99 2,000 / 10")]
    ratio = "p99_ms"
    parts_with_percentiles = (("many", "produce"),)
    few, many = 10, 2_000
    settings = {
        "record_size": 100, "keys": 100_000, "batch_size": 1, "linger": 0, "partitions_per_request": 1, "acks": "all",
        "connections": 32, "in_flight": 5, "rate": 20_000,
    }

    def measure(self, stage):
        stage.warm_up("produce", {**self.settings, "partitions": self.many})
        few = stage.run("few", "produce", {**self.settings, "partitions": self.few})["produce"]
        many = stage.run("many", "produce", {**self.settings, "partitions": self.many})["produce"]
        stage.latency(many)
        stage.latency(few, "few_")
        stage.figures["records_per_second"] = many["records_per_second"]
        stage.figures["p99_ratio"] = many["latency_us"]["p99"] / few["latency_us"]["p99"]


class Deleting(Workload):
    """W11: the same load on a log that keeps everything, and on one whose old segments go all the time."""

    name, title = "W11", "half of W1's rate while retention deletes segments throughout"
    columns = [("records_per_second", "records/s"), *PERCENTILES, ("before_p99_ms", "p99 ms before the first deletion"),
               ("p99_ratio", "p99 deleting / before")]
    ratio = "p99_ms"
    needs_w1 = (KAFKA, CORELOG)
    parts_with_percentiles = (("deleting", "produce"),)
    settings = {
        "partitions": 8, "record_size": 100, "batch_size": 65536, "linger": 1, "acks": "all", "connections": 8, "in_flight": 5,
    }
    segments = {"segment.bytes": 32 << 20, "file.delete.delay.ms": 1000}

    def measure(self, stage):
        rates = stage.plan.w1_rates
        settings = {**self.settings, "rate": round(rates.get(stage.subject.name, rates[KAFKA]) / 2)}
        keeping = {**settings, "topic_config": {**self.segments, "retention.bytes": -1}}
        deleting = {**settings, "topic_config": {**self.segments, "retention.bytes": 64 << 20}}
        stage.warm_up("produce", deleting)
        before = stage.run("before", "produce", keeping, stage.plan.short_seconds)["produce"]
        load = stage.run("deleting", "produce", deleting, stage.plan.short_seconds, keep=True)["produce"]
        stage.check_deleted("deleting")
        stage.latency(load)
        stage.latency(before, "before_")
        stage.figures["records_per_second"] = load["records_per_second"]
        stage.figures["p99_ratio"] = load["latency_us"]["p99"] / before["latency_us"]["p99"]


W3, W4, W5, W11 = EndToEnd(), SmallRequests(), ManyPartitions(), Deleting()
