"""Reads what was measured: medians over the rounds, and ratios pair by pair. Pure: only the JSON is needed."""

import statistics

CORELOG, KAFKA = "corelog", "kafka"
TWO_CORES = "two cores"  # a variant of both


class Results:
    """The document that a run writes."""

    def __init__(self, document):
        self.document = document
        self.limits = document["limits"]

    def runs(self, workload, label=None):
        return [run for run in self.document["runs"]
                if run["workload"] == workload and label in (None, run["label"])]

    def workloads(self):
        return list(dict.fromkeys(run["workload"] for run in self.document["runs"]))

    def labels(self, workload):
        return list(dict.fromkeys(run["label"] for run in self.runs(workload)))

    def values(self, workload, label, figure):
        found = [run["figures"].get(figure) for run in self.runs(workload, label)]
        return [value for value in found if value is not None]

    def median(self, workload, label, figure):
        """The median over the rounds, or None when it was not measured."""
        found = self.values(workload, label, figure)
        return statistics.median(found) if found else None

    def ratios(self, workload, figure, above=CORELOG, below=KAFKA):
        """The figure of one broker over that of the other, in each round."""
        found = []
        for run in self.runs(workload, above):
            for other in self.runs(workload, below):
                values = run["figures"].get(figure), other["figures"].get(figure)
                if other["round"] == run["round"] and None not in values and values[1]:
                    found.append(values[0] / values[1])
        return found

    def ratio(self, workload, figure, above=CORELOG, below=KAFKA):
        found = self.ratios(workload, figure, above, below)
        return statistics.median(found) if found else None

    def failures(self):
        return self.document["failures"]

    def rate(self, name):
        """Bytes per second of one of the machine's limits."""
        found = self.limits.get(name) if self.limits else None
        return found["bytes_per_second"] if found else None
