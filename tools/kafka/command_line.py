"""Corelog's command line against a Kafka broker: what it changes is read back over the wire protocol, and what
is there is compared with what it prints.
"""

import json
import subprocess
import time

from failure import Failure, expect

TOPIC, GROUP, PARTITIONS = "commands", "readers", 3
SHOWN_SECONDS_MAX = 10  # Kafka's controller promises topics and settings; its broker shows them a moment later
KEYS = ["key %d" % n for n in range(7)]
RECORDS = [(KEYS[n % len(KEYS)], "value %d" % n) for n in range(700)]
CHECKS = ["topic-create", "topic-list-and-describe", "topic-alter", "produce", "consume", "group", "reset-offsets",
          "group-delete", "topic-delete"]


class CommandLine:
    """One method for each of CHECKS, in that order: each goes on with what the one before it has left."""

    def __init__(self, binary, bootstrap, connection):
        self.binary, self.bootstrap, self.connection = binary, bootstrap, connection

    def checks(self):
        return [(name, getattr(self, name.replace("-", "_"))) for name in CHECKS]

    def run(self, *arguments, lines="", exit_code=0):
        """What the command prints; Failure if it does not end as expected."""
        command = [self.binary, *arguments, "--bootstrap", self.bootstrap]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60)
        if done.returncode != exit_code:
            raise Failure("corelog %s ended with %d: %s" % (
                " ".join(arguments), done.returncode, (done.stderr + done.stdout)[-300:]))
        return done.stdout if exit_code == 0 else done.stderr

    def json(self, *arguments):
        return json.loads(self.run(*arguments, "--json"))

    # --- topics ---------------------------------------------------------------------------------

    def topic_create(self):
        self.run("topic", "create", TOPIC, "--partitions", str(PARTITIONS), "--config", "retention.ms=7200000")
        self.run("topic", "create", TOPIC, "--if-not-exists")
        refused = self.run("topic", "create", TOPIC, exit_code=1)
        expect("reason of a second create", True, "TOPIC_ALREADY_EXISTS" in refused)
        self.expect_shown(PARTITIONS, {"retention.ms": ("7200000", True)})

    def topic_list_and_describe(self):
        expect("topics", [TOPIC], self.run("topic", "list").split())
        expect("topics", [{"topic": TOPIC, "partitions": PARTITIONS, "internal": False}], self.json("topic", "list"))
        described = self.json("topic", "describe", TOPIC)[0]
        expect("partitions", [{"partition": index, "leader": 1, "replicas": [1], "in_sync": [1], "start": 0, "end": 0}
                              for index in range(PARTITIONS)], described["partitions"])
        settings = {setting["name"]: setting["value"] for setting in described["configs"]}
        expect("retention.ms described", "7200000", settings.get("retention.ms"))
        printed = self.run("topic", "describe", TOPIC)
        expect("what describe prints", True, printed.startswith("topic %s " % TOPIC) and "retention.ms = " in printed)

    def topic_alter(self):
        self.run("topic", "alter", TOPIC, "--partitions", str(PARTITIONS + 1), "--config", "segment.bytes=2097152",
                 "--reset-config", "retention.ms")
        default = str(7 * 24 * 3_600_000)
        self.expect_shown(PARTITIONS + 1, {"segment.bytes": ("2097152", True), "retention.ms": (default, False)})

    def topic_delete(self):
        self.run("topic", "delete", TOPIC)
        self.expect_shown(None, {})
        self.run("topic", "delete", TOPIC, "--if-exists")
        self.run("topic", "delete", TOPIC, exit_code=1)
        expect("topics", [], self.json("topic", "list"))

    def expect_shown(self, partitions, settings):
        """The broker shows so many partitions (None: no topic) and these settings of the topic, soon."""
        end = time.monotonic() + SHOWN_SECONDS_MAX
        expected = partitions and list(range(partitions)), settings
        while True:
            there = self.connection.partitions(TOPIC)
            found = there, {name: self.connection.config(TOPIC, name) for name in settings if there}
            if found == expected or time.monotonic() > end:
                return expect("partitions and settings", expected, found)
            time.sleep(0.05)

    # --- records --------------------------------------------------------------------------------

    def produce(self):
        lines = "".join("%s:%s\n" % record for record in RECORDS)
        self.run("produce", TOPIC, "--key-separator", ":", "--compression", "zstd", lines=lines)
        batches = self.connection.read(TOPIC)
        expect("codecs of the batches", {"zstd"}, {batch.codec for batch in batches})
        self.records = [record for batch in batches for record in batch.records]
        homes = {}
        for record in self.records:
            homes.setdefault(record.key, set()).add(record.partition)
        expect("partitions of each key", [1] * len(KEYS), [len(partitions) for partitions in homes.values()])
        for key in KEYS:
            sent = [value for its_key, value in RECORDS if its_key == key]
            expect("values of %s, in order" % key, sent,
                   [record.value.decode() for record in self.records if record.key == key.encode()])

    def consume(self):
        from_beginning = ("consume", TOPIC, "--from-beginning", "--exit-at-end")
        printed = [json.loads(line) for line in self.run(*from_beginning, "--json").splitlines()]
        place = lambda row: (row["partition"], row["offset"])  # noqa: E731
        expected = [{"topic": TOPIC, "partition": record.partition, "offset": record.offset, "headers": [],
                     "timestamp": record.timestamp, "key": record.key.decode(), "value": record.value.decode()}
                    for record in self.records]
        expect("records", sorted(expected, key=place), sorted(printed, key=place))
        rows = [tuple(line.split("\t")) for line in self.run(*from_beginning, "--print-key").splitlines()]
        expect("keys and values", sorted(RECORDS), sorted(rows))
        expect("records at most", 10, len(self.run("consume", TOPIC, "--from-beginning", "--max", "10").splitlines()))

    # --- groups ---------------------------------------------------------------------------------

    def ends(self):
        """{partition: end} of the partitions that have records."""
        found = {}
        for record in self.records:
            found[record.partition] = record.offset + 1
        return found

    def group(self):
        printed = self.run("consume", TOPIC, "--group", GROUP, "--from-beginning", "--exit-at-end").splitlines()
        expect("values read as a member", sorted(value for _, value in RECORDS), sorted(printed))
        expect("groups", [GROUP], self.run("group", "list").split())
        expect("groups", [{"group": GROUP, "protocol_type": "consumer", "state": "Empty"}], self.json("group", "list"))
        expect("committed", self.ends(), self.committed())
        rows = {row["partition"]: row for row in self.json("group", "describe", GROUP)[0]["partitions"]}
        for partition, end in self.ends().items():
            row = rows[partition]
            expect("lag of partition %d" % partition, (end, end, 0), (row["committed"], row["end"], row["lag"]))
        expect("what describe prints", True, ("group %s " % GROUP) in self.run("group", "describe", GROUP))

    def reset_offsets(self):
        earliest = ("group", "reset-offsets", GROUP, "--to-earliest")
        before = self.committed()
        preview = {row["partition"]: row["offset"] for row in self.json(*earliest)}
        expect("preview", {partition: 0 for partition in range(PARTITIONS + 1)}, preview)
        expect("committed after a preview", before, self.committed())
        self.run(*earliest, "--execute")
        expect("committed", preview, self.committed())
        again = self.run("consume", TOPIC, "--group", GROUP, "--exit-at-end").splitlines()
        expect("records read again", len(RECORDS), len(again))
        one = min(self.ends())
        self.run("group", "reset-offsets", GROUP, "--topic", "%s:%d" % (TOPIC, one), "--shift-by", "-5", "--execute")
        expect("committed after a shift", self.ends() | {one: self.ends()[one] - 5}, self.committed(self.ends()))

    def group_delete(self):
        self.run("group", "delete", GROUP)
        expect("groups", [], self.json("group", "list"))
        self.run("group", "delete", GROUP, exit_code=1)

    def committed(self, partitions=range(PARTITIONS + 1)):
        return self.connection.committed(GROUP, TOPIC, partitions)
