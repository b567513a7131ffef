"""How each client's programs are called, and what they print, brought to one form.

A line of a program becomes one of
  {"partition": 0, "offset": 7, ...}   an acknowledgement, or a record with timestamp, key, value and headers
  {"assigned": [0, 1]}                 partitions that a group member owns from now on, beside those it owned
  {"revoked": [0, 1]}                  partitions that it owns no longer
  {"owned": [0, 1]}                    all the partitions that it owns now
"""

import json
import os
import re
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
CACHE = TARGET / "clients"
JAVA_LIBRARIES = ["-cp", "%s/*" % (CACHE / "java" / "libs")]
JAVA_LOGGING = "-Dlog4j2.configurationFile=%s" % (HERE / "java" / "log4j2.properties")
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", JAVA_LOGGING]
KAFKA = JAVA[:3] + ["-Xmx512m", JAVA_LOGGING] + JAVA_LIBRARIES  # Kafka's programs, started for a moment
RECORD = ("partition", "offset", "timestamp", "key", "value", "headers")


class Client:
    """A client with a program of our own: sub-commands produce, consume, group, and one admin call each."""

    acks = True  # produce prints every acknowledgement
    fields = RECORD  # what is known of a record that was consumed
    keys = True  # the caller chooses keys and values

    def __init__(self, name, client, admin, origin, needs, environment=None):
        self.name, self.client, self.admin = name, client, admin
        self.origin = origin  # the value of the header `client` that produce adds
        self.needs = needs  # names of the installers that must have succeeded
        self.environment = {**os.environ, **(environment or {})}

    def produce(self, bootstrap, topic, codec, idempotent, lines):
        """(command line, stdin)"""
        arguments = [bootstrap, "produce", topic, codec] + (["idempotent"] if idempotent else [])
        return self.client + arguments, "".join("%s\t%s\n" % (key or "", value) for key, value in lines)

    def consume(self, bootstrap, topic, count, timestamp=None):
        return self.client + [bootstrap, "consume", topic] + ([str(timestamp)] if timestamp else [])

    def group(self, bootstrap, group, topic, count=None):
        return self.client + [bootstrap, "group", group, topic] + ([str(count)] if count else [])

    def cooperative(self, bootstrap, group, topic):
        return self.client + [bootstrap, "cooperative", group, topic]

    def call(self, bootstrap, call, *arguments):
        return self.admin + [bootstrap, call] + [str(argument) for argument in arguments]

    def parse(self, line):
        """The events that one line of output means."""
        return [json.loads(line)]

    def answer(self, call, output):
        """The answer to an admin call."""
        return json.loads(output)


class Kcat(Client):
    """Prints records in a JSON of its own, and group membership in words on stderr."""

    acks = False

    def parse(self, line):
        change = re.match(r"% Group \S+ rebalanced.*(assigned|revoked|assignment|revoke)\b.*?: (\S+ \[.*)", line)
        if change:
            partitions = [int(p) for p in re.findall(r"\[(\d+)\]", change.group(2))]
            return [{"assigned" if change.group(1).startswith("assign") else "revoked": partitions}]
        if not line.startswith("{"):
            return []
        record = json.loads(line)
        headers = record.get("headers", [])
        return [{
            "partition": record["partition"], "offset": record["offset"], "timestamp": record["ts"],
            "key": record["key"], "value": record["payload"], "headers": dict(zip(headers[::2], headers[1::2])),
        }]

    def answer(self, call, output):
        if call == "list-offsets":
            offsets = {}
            for partition, offset in re.findall(r"\[(\d+)\] offset (\d+)", output):
                offsets.setdefault(partition, []).append(int(offset))
            return offsets
        topics = json.loads(output)["topics"]
        if call == "list-topics":
            return [topic["topic"] for topic in topics]
        return [partition["partition"] for partition in topics[0]["partitions"]]


class Verifiable(Client):
    """Kafka's own VerifiableProducer and VerifiableConsumer."""

    fields = ("partition", "offset", "key", "value")
    keys = False

    def config(self, **settings):
        handle, path = tempfile.mkstemp(".properties", dir=CACHE)
        with os.fdopen(handle, "w") as file:
            for name, value in settings.items():
                file.write("%s=%s\n" % (name.replace("_", "."), value))
        return path

    def produce(self, bootstrap, topic, codec, idempotent, lines):
        config = self.config(compression_type=codec, enable_idempotence=str(idempotent).lower(), linger_ms=20,
                             retries=3 if idempotent else 0)
        tool = ["org.apache.kafka.tools.VerifiableProducer", "--bootstrap-server", bootstrap, "--topic", topic]
        tool += ["--max-messages", str(len(lines)), "--value-prefix", "1", "--repeating-keys", "7"]
        return self.client + tool + ["--command-config", config], ""

    def consume(self, bootstrap, topic, count, timestamp=None):
        return self.group(bootstrap, "read-" + topic, topic, count)

    def cooperative(self, bootstrap, group, topic):
        strategy = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"
        return self.group(bootstrap, group, topic) + ["--assignment-strategy", strategy]

    def group(self, bootstrap, group, topic, count=None):
        tool = ["org.apache.kafka.tools.VerifiableConsumer", "--bootstrap-server", bootstrap, "--topic", topic]
        tool += ["--group-id", group, "--session-timeout", "6000", "--reset-policy", "earliest", "--verbose"]
        # offsets of at most 5 records are committed at once
        config = self.config(heartbeat_interval_ms=500, max_poll_records=5)
        return self.client + tool + ["--command-config", config] + (["--max-messages", str(count)] if count else [])

    def parse(self, line):
        if not line.startswith("{"):
            return []
        event = json.loads(line)
        if event["name"] in ("producer_send_success", "record_data"):
            return [{name: event.get(name) for name in ("partition", "offset", "key", "value")}]
        if event["name"] in ("partitions_assigned", "partitions_revoked"):
            return [{event["name"].split("_")[1]: [p["partition"] for p in event["partitions"]]}]
        if event["name"] == "producer_send_error" or event.get("success") is False:
            return [{"error": line}]
        return []


def clients():
    """All clients by name."""
    python = str(CACHE / "venv" / "bin" / "python")
    classpath = ["-cp", "%s:%s/*" % (CACHE / "java" / "classes", CACHE / "java" / "libs")]
    node = {"NODE_PATH": str(CACHE / "node" / "node_modules")}
    rust = TARGET / "release"

    def script(*parts):
        return str(HERE.joinpath(*parts))

    all_clients = [
        Kcat("kcat", [script("kcat", "client")], [script("kcat", "admin")], "kcat", ["debian"]),
        Client("confluent-kafka", [python, script("python", "confluent_client.py")],
               [python, "-W", "ignore", script("python", "confluent_admin.py")], "confluent-kafka", ["python"]),
        Client("kafka-python", [python, script("python", "kafka_python_client.py")],
               [python, script("python", "kafka_python_admin.py")], "kafka-python", ["python"]),
        Client("java", JAVA + classpath + ["Client"], JAVA + classpath + ["Admin"], "java", ["java"]),
        Verifiable("verifiable", JAVA + classpath, None, None, ["java"]),
        Client("kafkajs", ["node", script("node", "client.js")], ["node", script("node", "admin.js")],
               "kafkajs", ["node"], node),
        Client("librdkafka", [str(CACHE / "c" / "client")], [str(CACHE / "c" / "admin")], "librdkafka", ["debian", "c"]),
        Client("rdkafka", [str(rust / "corelog-client-rust")], [str(rust / "corelog-admin-rust")], "rdkafka", ["rust"]),
    ]
    return {client.name: client for client in all_clients}
