"""All workloads by name, in the order of the table."""

from growth import W10
from latency import W3, W4, W5, W11
from reading import W6, W7, W8
from restart import W9
from throughput import W1, W2

ALL = {workload.name: workload for workload in (W1, W2, W3, W4, W5, W6, W7, W8, W9, W10, W11)}
QUICK = ("W1", "W3", "W4")
