"""Apache Kafka as it is meant to run: its own defaults, the JVM flags that its documentation recommends."""

import broker
import machine
from programs import JAVA_LIBRARIES, JAVA_LOGGING
from results import KAFKA
from session import Subject

# Kafka's documentation, "Java Version": typical arguments
JVM = ["-Xmx6g", "-Xms6g", "-XX:MetaspaceSize=96m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
       "-XX:InitiatingHeapOccupancyPercent=35", "-XX:G1HeapRegionSize=16M", "-XX:MinMetaspaceFreeRatio=50",
       "-XX:MaxMetaspaceFreeRatio=80", "-XX:+ExplicitGCInvokesConcurrent"]
JAVA = ["java", *JVM, JAVA_LOGGING, *JAVA_LIBRARIES]
# a broker that never flushes by itself, told to flush before it acknowledges
FLUSHED, FLUSHES = "flushed", {"flush.messages": "1"}


class Kafka(Subject):
    def __init__(self, work, cores, settings, variant=""):
        super().__init__(KAFKA, work, cores, variant, FLUSHES if variant == FLUSHED else {})
        self.settings, self.durable = settings, variant == FLUSHED

    def launch(self):
        return broker.Kafka(self.data, self.work / "kafka.log", JAVA, machine.pinned(self.cores), self.settings)
