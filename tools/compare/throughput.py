"""W1 and W2: as fast as it goes, sustained."""

from stage import BOUNDED, MB, cpu_per_gb
from workload import Workload

CONNECTIONS = 16  # with 8, a durable broker waits for its client: half of its core is idle


class Sustained(Workload):
    """Full speed for at least 30 s; for a durable broker, what it still had to put in its place is counted in."""

    columns = [("records_per_second", "records/s"), ("mb_per_second", "MB/s"), ("p99_ms", "p99 ms"),
               ("broker_cpu_seconds_per_gb", "broker CPU s/GB"), ("write_amplification", "write amplification")]
    has_flushed = True

    def __init__(self, name, title, record_size, ratio):
        self.name, self.title, self.ratio = name, title, ratio
        self.settings = {
            "partitions": 8, "record_size": record_size, "batch_size": 65536, "acks": "all", "rate": "max",
            "connections": CONNECTIONS, "in_flight": 5, "topic_config": BOUNDED,
        }

    def measure(self, stage):
        stage.warm_up("produce", self.settings)
        before, counters = stage.usage(), stage.counters()
        load = stage.run("load", "produce", self.settings, keep=True)
        after = stage.counters()
        settle_seconds = stage.stop()
        produce, figures = load["produce"], stage.figures
        counted = produce["seconds"] + (settle_seconds if stage.subject.durable else 0)
        figures["acknowledged_per_second"] = produce["records_per_second"]
        figures["settle_seconds"] = settle_seconds
        figures["records_per_second"] = produce["records"] / counted
        figures["mb_per_second"] = produce["bytes"] / counted / MB
        figures["wire_mb_per_second"] = produce["wire_bytes"] / counted / MB
        figures["wire_bytes_per_record"] = produce["wire_bytes"] / produce["records"]
        figures["broker_cpu_seconds_per_gb"] = cpu_per_gb(load["broker_cpu_seconds"], produce["wire_bytes"])
        stage.latency(produce)
        if counters:
            self.journal(stage, counters, after, before, produce["wire_bytes"] / produce["batches"])

    @staticmethod
    def journal(stage, before, after, usage, batch_bytes):
        """How often the ring went round, and the bytes written, to the end, for each byte of the batches."""
        batches = after["corelog_produced_batches_total"] - before["corelog_produced_batches_total"]
        produced = batches * batch_bytes
        journaled = after["corelog_journal_written_bytes_total"] - before["corelog_journal_written_bytes_total"]
        written = stage.session.written_bytes_in_all - usage.written_bytes
        stage.figures["ring_wraps"] = journaled / after["corelog_journal_capacity_bytes"]
        stage.figures["journaled_per_byte"] = journaled / produced
        stage.figures["write_amplification"] = written / produced


W1 = Sustained("W1", "100-byte records as fast as it goes, sustained", 100, "records_per_second")
W2 = Sustained("W2", "1 KiB records as fast as it goes, sustained", 1024, "mb_per_second")
