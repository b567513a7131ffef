"""W10: what a record costs the broker as the number of partitions, connections, bytes and shards grows."""

import plots
from results import TWO_CORES
from stage import MB
from workload import Workload

STEPS = (1, 10, 100, 1_000, 10_000)
SIZES = (10, 100, 1 << 10, 10 << 10, 100 << 10, 1 << 20)
SECONDS = 10
BATCHED = {
    "partitions": 8, "record_size": 100, "batch_size": 16384, "linger": 5, "acks": "all", "connections": 8, "in_flight": 5,
    "rate": 200_000,
}
SINGLE = {**BATCHED, "batch_size": 1, "linger": 0, "rate": 10_000}


def points(sweep):
    """[(x, settings)] of one sweep."""
    if sweep == "partitions":
        return [(count, {**BATCHED, "partitions": count}) for count in STEPS]
    if sweep == "connections":
        return [(count, {**SINGLE, "connections": count}) for count in STEPS]
    larger = {"topic_config": {"max.message.bytes": 4 << 20}}  # a record of 1 MiB and its header
    return [(size, {**BATCHED, **larger, "record_size": size, "rate": min(500_000, round(50e6 / size))}) for size in SIZES]


SWEEPS = ("partitions", "connections", "record_size")


class Growth(Workload):
    """Cost is broker CPU time; for record sizes, of a byte. Flat means within a fifth."""

    name, title = "W10", "cost per record as partitions, connections, record size and shards grow"
    columns = [("partitions_growth", "partitions 10,000 / 1"), ("connections_growth", "connections 10,000 / 1"),
               ("record_size_growth", "record size 1 MiB / 10 B, per byte"), ("batched_cpu_us", "CPU us a record, 8 partitions")]
    ratio = "batched_cpu_us"
    has_two_cores = True
    needs_process = True

    def measure(self, stage):
        stage.warm_up("produce", BATCHED)
        stage.figures["batched_cpu_us"] = self.cost(stage, "batched", BATCHED)
        if stage.subject.variant == TWO_CORES:
            return
        for sweep in SWEEPS:
            costs = [(x, self.cost(stage, "%s-%d" % (sweep, x), settings)) for x, settings in points(sweep)]
            if sweep == "record_size":
                costs = [(size, cost / size) for size, cost in costs]
            stage.figures["%s_growth" % sweep] = costs[-1][1] / costs[0][1]
            stage.figures["%s_worst" % sweep] = max(cost for _, cost in costs) / costs[0][1]
            stage.parts["%s_costs" % sweep] = costs

    @staticmethod
    def cost(stage, part, settings):
        """Microseconds of broker CPU for one record."""
        load = stage.run(part, "produce", settings, stage.plan.shorten or SECONDS)
        return load["broker_cpu_seconds"] * MB / load["produce"]["records"]

    def plots(self, results):
        drawn = {}
        for sweep in SWEEPS:
            unit = "CPU us a byte" if sweep == "record_size" else "CPU us a record"
            lines = {}
            for label in results.labels(self.name):
                costs = results.runs(self.name, label)[-1]["parts"].get("%s_costs" % sweep)
                if costs:
                    lines[label] = [tuple(point) for point in costs]
            title = "W10: %s as %s grows" % (unit, sweep.replace("_", " "))
            drawn["-" + sweep.replace("_", "-")] = plots.line_chart(title, sweep.replace("_", " "), unit, lines)
        return {suffix: svg for suffix, svg in drawn.items() if svg}


W10 = Growth()
