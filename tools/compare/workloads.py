"""All workloads by name, in the order of the table."""

from latency import W3, W4
from throughput import W1, W2

ALL = {workload.name: workload for workload in (W1, W2, W3, W4)}
QUICK = ("W1", "W3", "W4")
