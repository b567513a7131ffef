"""The checks: each makes one client do one thing, and looks with wire.py whether it was done.

A check is a function of a `Cell`. It returns when all is right and raises Failure otherwise.
Topics and groups are named after the run, the client and the check, so cells run side by side.
"""

import queue
import subprocess
import threading
import time
from collections import Counter

import wire
from broker import PROCESSES
from wire import CODECS, Record

RUN_SECONDS = 60  # no single program runs longer
FIRST_TIMESTAMP = int(time.time()) * 1000 - 3_600_000  # of records that wire.py writes: young enough to be kept
RECORD_COUNT = 120


class Failure(Exception):
    """What a check found wrong."""


class Cell:
    """One check of one client against one broker."""

    def __init__(self, bootstrap, client, check, run):
        self.bootstrap, self.client, self.check = bootstrap, client, check
        self.name = "%s-%s-%s" % (run, client.name, check)
        self.wire = wire.Connection(bootstrap)

    def run(self, arguments, stdin=""):
        """Runs a program to its end and returns (stdout, stderr); a bad end is a Failure."""
        process = PROCESSES.start(arguments, env=self.client.environment, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            output, errors = process.communicate(stdin, timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            PROCESSES.end(process)
            output, errors = process.communicate()
            raise Failure("no end after %d s%s" % (RUN_SECONDS, last_words(errors))) from None
        finally:
            PROCESSES.end(process)
        if process.returncode:
            raise Failure("exit code %d%s" % (process.returncode, last_words(errors)))
        return output, errors

    def events(self, arguments, stdin=""):
        output, _ = self.run(arguments, stdin)
        return [event for line in output.splitlines() for event in self.client.parse(line)]

    def records(self, arguments):
        """What a program that consumes has printed: a tuple of the client's fields for each record."""
        return [self.fields(event) for event in self.events(arguments) if "value" in event]

    def fields(self, record):
        return tuple(freeze(record[name]) for name in self.client.fields)

    def call(self, *arguments):
        """Makes a change by an admin call."""
        self.run(self.client.call(self.bootstrap, self.check, *arguments))

    def ask(self, *arguments):
        """Asks a question by an admin call."""
        output, _ = self.run(self.client.call(self.bootstrap, self.check, *arguments))
        return self.client.answer(self.check, output)

    def expect(self, what, expected, got):
        if expected != got:
            raise Failure("%s: expected %.300r, got %.300r" % (what, expected, got))

    def eventually(self, what, expected, look):
        """For changes that a broker may announce before every one of its answers shows them."""
        end = time.monotonic() + 5
        while (got := look()) != expected and time.monotonic() < end:
            time.sleep(0.1)
        self.expect(what, expected, got)

    # --- topics and groups to work on -----------------------------------------------------------

    def topic(self, partitions=2, **configs):
        self.wire.create_topic(self.name, partitions, **configs)
        return self.name

    def topic_with_records(self, partitions=2, count=20):
        topic = self.topic(partitions)
        for partition in range(partitions):
            self.wire.append(topic, partition, records(range(count), partition))
        return topic

    def group_with_offsets(self):
        """(group, topic): no members; 5 committed for partition 0 and 7 for partition 1."""
        topic = self.topic_with_records()
        self.wire.commit(self.name, topic, {0: 5, 1: 7})
        return self.name, topic

    def all_kinds_of_records(self):
        """A topic of 3 partitions with batches of every codec, and all that a record can be.

        Partition p holds the records whose number modulo 3 is p, timestamps one second apart; the last
        third of the time has none in partition 2.
        """
        topic = self.topic(3)
        for batch in range(30):
            partition, codec = batch % 3, CODECS[batch // 3 % 5]
            if partition == 2 and batch >= 20:
                continue
            content = records(range(batch * 4, batch * 4 + 4), partition)
            content[1].key, content[1].headers = None, ()
            content[2].value = None
            content[3].value = b""
            if batch in (7, 13):
                content[0].value = b"large " * 20_000
            self.wire.append(topic, partition, content, codec)
        expected = [record for batch in self.wire.read(topic) for record in batch.records]
        self.expect("records that were written and are there", 104, len(expected))
        return topic, expected

    def visible(self, record):
        """`record`, which wire.py read, as the client's fields show it."""
        def text(content):
            return None if content is None else content.decode()

        shown = {
            "partition": record.partition, "offset": record.offset, "timestamp": record.timestamp,
            "key": text(record.key), "value": text(record.value),
            "headers": {name: text(value) for name, value in record.headers},
        }
        return self.fields(shown)

    def expect_records(self, expected, got):
        """The same records, each once, and in each partition in order."""
        expected, positions = [self.visible(record) for record in expected], {}
        missing, extra = Counter(expected) - Counter(got), Counter(got) - Counter(expected)
        if missing or extra:
            raise Failure("%d of %d records missing, %d unexpected; missing %.200r, unexpected %.200r" % (
                missing.total(), len(expected), extra.total(), next(iter(missing), None), next(iter(extra), None)))
        for partition, offset, *_ in got:
            if offset <= positions.get(partition, -1):
                raise Failure("partition %d: offset %d after %d" % (partition, offset, positions[partition]))
            positions[partition] = offset


def freeze(value):
    return tuple(sorted(value.items())) if isinstance(value, dict) else value


def last_words(errors):
    """The lines of stderr that name an error, or the last ones."""
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
    named = [line for line in lines if "error" in line.lower() or "exception" in line.lower()]
    return "".join("; " + line[:300] for line in (named or lines)[-2:])


def records(numbers, partition=0):
    return [
        Record(b"key-%d" % (n % 10), b"value-%d" % n, [("number", b"%d" % n)], FIRST_TIMESTAMP + n * 1000, partition)
        for n in numbers
    ]


# --- records ------------------------------------------------------------------------------------


def produce(cell, codec="none", idempotent=False, partitions=3):
    """Has the client produce keyed and unkeyed records, and reads what is in the log."""
    topic, started = cell.name, int(time.time() * 1000)
    if partitions:
        cell.topic(partitions)
    lines = [("key-%d" % (n % 7) if n % 3 else None, "%d %s" % (n, "filler " * 20)) for n in range(RECORD_COUNT)]
    arguments, stdin = cell.client.produce(cell.bootstrap, topic, codec, idempotent, lines)
    acknowledged = cell.events(arguments, stdin)
    if not cell.client.keys:
        lines = [(str(n % 7), "1.%d" % n) for n in range(RECORD_COUNT)]
    batches = cell.wire.read(topic)
    written = [record for batch in batches for record in batch.records]

    expected = Counter((key and key.encode(), value.encode()) for key, value in lines)
    got = Counter((record.key, record.value) for record in written)
    if expected != got:
        raise Failure("%d records missing in the log, %d unexpected" % (
            (expected - got).total(), (got - expected).total()))
    cell.expect("codecs of the batches", {codec}, {batch.codec for batch in batches})
    if cell.client.origin:
        header = ("client", cell.client.origin.encode())
        cell.expect("headers", {(header,)}, {record.headers for record in written})
    if cell.client.acks:
        acks = {(event["partition"], event["offset"]) for event in acknowledged if "offset" in event}
        acks |= {(event["partition"], event["baseOffset"]) for event in acknowledged if "baseOffset" in event}
        in_log = {(record.partition, record.offset) for record in written}
        if not acks <= in_log or not acks:
            raise Failure("acknowledged, but not in the log: %.200r" % (acks - in_log))
        if len(acks) != len(in_log) and not any("baseOffset" in event for event in acknowledged):
            raise Failure("%d records acknowledged, %d in the log" % (len(acks), len(in_log)))
    check_order(cell, written, started)
    check_producer_ids(cell, batches, idempotent)


def check_order(cell, written, started):
    """Numbers ascend within a partition, one key stays in one partition, timestamps are of now."""
    last, homes = {}, {}
    for record in written:
        number = float(record.value.split()[0].decode().split(".")[-1])
        if number <= last.get(record.partition, -1):
            raise Failure("partition %d: record %d stands behind record %d" % (
                record.partition, number, last[record.partition]))
        last[record.partition] = number
        if record.key and homes.setdefault(record.key, record.partition) != record.partition:
            raise Failure("key %r is in partitions %d and %d" % (record.key, homes[record.key], record.partition))
        if not started - 5000 <= record.timestamp <= time.time() * 1000 + 5000:
            raise Failure("timestamp %d is not of this run" % record.timestamp)


def check_producer_ids(cell, batches, idempotent):
    sequences = {}
    for batch in batches:
        if not idempotent:
            cell.expect("producer id of a producer that is not idempotent", -1, batch.producer_id)
            continue
        if batch.producer_id < 0 or batch.producer_epoch < 0:
            raise Failure("producer id %d, epoch %d of an idempotent producer" % (batch.producer_id, batch.producer_epoch))
        partition = batch.records[0].partition
        cell.expect("first sequence in partition %d" % partition, sequences.get(partition, 0), batch.base_sequence)
        sequences[partition] = batch.base_sequence + len(batch.records)
    cell.expect("number of producer ids", 1, len({batch.producer_id for batch in batches}))


def auto_create(cell):
    cell.expect("topic before anything is produced", None, cell.wire.partitions(cell.name))
    produce(cell, partitions=None)


def consume(cell):
    topic, expected = cell.all_kinds_of_records()
    got = cell.records(cell.client.consume(cell.bootstrap, topic, len(expected)))
    cell.expect_records(expected, got)


def seek(cell):
    """To a time in the middle of a batch, after the last record of partition 2."""
    topic, everything = cell.all_kinds_of_records()
    for timestamp in (FIRST_TIMESTAMP + 29_500, FIRST_TIMESTAMP + 90_000):
        expected = [record for record in everything if record.timestamp >= timestamp]
        got = cell.records(cell.client.consume(cell.bootstrap, topic, len(expected), timestamp))
        cell.expect_records(expected, got)


# --- groups -------------------------------------------------------------------------------------


class GroupMember:
    """A running member: what it owns now, and what it has consumed since it was asked last."""

    def __init__(self, cell, arguments):
        self.cell, self.owned, self.consumed = cell, frozenset(), queue.SimpleQueue()
        self.last_line = ""
        self.process = PROCESSES.start(arguments, env=cell.client.environment, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        for line in self.process.stdout:
            self.last_line = line.strip()
            try:
                events = self.cell.client.parse(line)
            except ValueError:
                continue  # a log line
            for event in events:
                self.owned = frozenset(event.get("owned", self.owned | set(event.get("assigned", ()))))
                self.owned -= set(event.get("revoked", ()))
                if "value" in event:
                    self.consumed.put((event["partition"], event["offset"], event["value"]))

    def take_consumed(self):
        taken = []
        while not self.consumed.empty():
            taken.append(self.consumed.get())
        return taken


def await_assignment(members, partitions):
    """Waits until the members share the partitions: all given, none twice, none without."""
    end, since = time.monotonic() + 45, None
    while time.monotonic() < end:
        for member in members:
            if member.process.poll() is not None:
                raise Failure("a member ended with %d; %s" % (member.process.returncode, member.last_line))
        owned = [member.owned for member in members]
        if all(owned) and sorted(p for some in owned for p in some) == list(range(partitions)):
            # A member may still print an assignment of an older generation: it must hold for a moment.
            if since and since[0] == owned and time.monotonic() - since[1] > 1:
                return owned
            if not since or since[0] != owned:
                since = (owned, time.monotonic())
        else:
            since = None
        time.sleep(0.05)
    raise Failure("%d members, %d partitions, but they own %r; %s" % (
        len(members), partitions, [sorted(member.owned) for member in members], members[0].last_line))


def await_consumed(cell, members, partitions, prefix):
    """Appends records and waits until each has been consumed once, by the member that owns its partition."""
    expected = Counter()
    for partition in range(partitions):
        content = [Record(b"key", b"%s-%d-%d" % (prefix, partition, n), timestamp=FIRST_TIMESTAMP) for n in range(10)]
        cell.wire.append(cell.name, partition, content)
        expected.update(record.value.decode() for record in content)
    got, end = Counter(), time.monotonic() + 30
    while expected - got and time.monotonic() < end:
        for member in members:
            for partition, _offset, value in member.take_consumed():
                if not value.startswith(prefix.decode()):
                    continue  # from before the rebalance, not committed yet: delivered again
                if partition not in member.owned:
                    raise Failure("partition %d was consumed by a member that owns %r" % (partition, member.owned))
                got[value] += 1
        time.sleep(0.05)
    if got != expected:
        raise Failure("%d records not consumed, %d more than once" % (
            (expected - got).total(), (got - expected).total()))


def group(cell, cooperative=False):
    """Three members share six partitions; one is killed; the other two take its partitions over."""
    program = cell.client.cooperative if cooperative else cell.client.group
    arguments = program(cell.bootstrap, cell.name, cell.topic(6))
    members = []
    try:
        members = [GroupMember(cell, arguments) for _ in range(3)]
        await_assignment(members, 6)
        await_consumed(cell, members, 6, b"before")
        killed = members[1]
        PROCESSES.end(killed.process)
        left = [members[0], members[2]]
        await_assignment(left, 6)
        await_consumed(cell, left, 6, b"after")
    finally:
        for member in members:
            PROCESSES.end(member.process)


def commit(cell):
    """Consumes 25 records and ends; starts again, and gets exactly the other 35."""
    topic = cell.topic_with_records(3, 20)
    expected = {(record.partition, record.offset) for batch in cell.wire.read(topic) for record in batch.records}
    seen = set()
    for count in (25, 35):
        got = cell.records(cell.client.group(cell.bootstrap, cell.name, topic, count))
        places = [record[:2] for record in got]
        cell.expect("records consumed", count, len(places))
        if seen & set(places) or len(set(places)) != len(places):
            raise Failure("consumed more than once: %.200r" % (seen & set(places)))
        seen |= set(places)
        ends = Counter(partition for partition, _ in seen)
        committed = cell.wire.committed(cell.name, topic, range(3))
        cell.expect("committed offsets", {p: ends[p] for p in ends}, {p: o for p, o in committed.items() if o})
    cell.expect("records consumed in all", expected, seen)


# --- admin calls --------------------------------------------------------------------------------


def create_topic(cell):
    cell.call(cell.name, 3)
    cell.eventually("partitions", [0, 1, 2], lambda: cell.wire.partitions(cell.name))
    cell.expect("retention.ms, set by the topic", ("7654321", True), cell.wire.config(cell.name, "retention.ms"))


def list_topics(cell):
    topic = cell.topic()
    cell.expect("the topic in the list", True, topic in cell.ask())


def describe_topic(cell):
    cell.expect("partitions", [0, 1, 2, 3, 4], sorted(cell.ask(cell.topic(5))))


def describe_cluster(cell):
    cluster, brokers, _ = cell.wire.metadata("")
    answer = cell.ask()
    cell.expect("cluster id", cluster, answer["cluster"])
    cell.expect("nodes", sorted(broker[0] for broker in brokers), sorted(answer["nodes"]))


def list_offsets(cell):
    topic = cell.topic()
    cell.wire.append(topic, 1, records(range(7)))
    cell.expect("offsets", {"0": [0, 0], "1": [0, 7]}, cell.ask(topic))


def describe_configs(cell):
    answer = cell.ask(cell.topic(1, retention_ms=123456789))
    cell.expect("retention.ms, set for the topic", "123456789", answer.get("retention.ms"))
    cell.expect("max.message.bytes, a default", "1048588", answer.get("max.message.bytes"))
    cell.expect("cleanup.policy, a default", "delete", answer.get("cleanup.policy"))


def alter_configs(cell):
    """Replaces all settings of a topic (the old call)."""
    topic = cell.topic(1, retention_ms=123456789)
    cell.call(topic, "max.message.bytes", "2000000")
    cell.eventually("max.message.bytes", ("2000000", True), lambda: cell.wire.config(topic, "max.message.bytes"))
    # kafka-python reads the other settings first and sends them along.
    kept = cell.client.name == "kafka-python"
    cell.expect("retention.ms set by the topic", kept, cell.wire.config(topic, "retention.ms")[1])


def incremental_alter_configs(cell):
    """Changes one setting of a topic and leaves the others."""
    topic = cell.topic(1, retention_ms=123456789)
    cell.call(topic, "max.message.bytes", "2000000")
    cell.eventually("max.message.bytes", ("2000000", True), lambda: cell.wire.config(topic, "max.message.bytes"))
    cell.expect("retention.ms", ("123456789", True), cell.wire.config(topic, "retention.ms"))


def create_partitions(cell):
    topic = cell.topic_with_records()
    cell.call(topic, 5)
    cell.eventually("partitions", [0, 1, 2, 3, 4], lambda: cell.wire.partitions(topic))
    cell.wire.append(topic, 4, records(range(3)))
    cell.expect("records", 43, sum(len(batch.records) for batch in cell.wire.read(topic)))


def delete_records(cell):
    topic = cell.topic_with_records()
    cell.call(topic, 0, 13)
    cell.expect("earliest offset", 13, cell.wire.offset(topic, 0, wire.EARLIEST))
    cell.expect("latest offset", 20, cell.wire.offset(topic, 0, wire.LATEST))
    cell.expect("earliest offset of the other partition", 0, cell.wire.offset(topic, 1, wire.EARLIEST))


def list_groups(cell):
    group, _topic = cell.group_with_offsets()
    cell.expect("the group in the list", True, group in cell.ask())


def describe_group(cell):
    topic = cell.topic()
    member = wire.Member(cell.bootstrap, cell.name, topic, [0, 1])
    try:
        answer = cell.ask(cell.name)
    finally:
        member.close()
    members = [(described["client"], sorted(described["partitions"])) for described in answer]
    cell.expect("members", [("check", [0, 1])], members)


def list_group_offsets(cell):
    group, topic = cell.group_with_offsets()
    cell.expect("committed offsets", {"0": 5, "1": 7}, cell.ask(group, topic))


def alter_group_offsets(cell):
    group, topic = cell.group_with_offsets()
    cell.call(group, topic, 0, 9)
    cell.expect("committed offsets", {0: 9, 1: 7}, cell.wire.committed(group, topic, [0, 1]))


def delete_group_offsets(cell):
    group, topic = cell.group_with_offsets()
    cell.call(group, topic, 1)
    cell.expect("committed offsets", {0: 5}, cell.wire.committed(group, topic, [0, 1]))


def delete_group(cell):
    group, topic = cell.group_with_offsets()
    cell.call(group)
    cell.expect("the group in the list", False, group in cell.wire.groups())
    cell.expect("committed offsets", {}, cell.wire.committed(group, topic, [0, 1]))


def describe_log_dirs(cell):
    topic = cell.topic()
    cell.wire.append(topic, 0, records(range(20)))
    sizes = cell.ask(topic)
    cell.expect("partitions", ["0", "1"], sorted(sizes))
    cell.expect("sizes above zero", [True, False], [sizes["0"] > 0, sizes["1"] > 0])


def list_config_resources(cell):
    topic = cell.topic()
    cell.expect("the topic in the list", True, topic in cell.ask())


def delete_topic(cell):
    topic = cell.topic_with_records()
    cell.call(topic)
    cell.eventually("partitions", None, lambda: cell.wire.partitions(topic))
    cell.wire.create_topic(topic, 1)
    cell.expect("records of a topic created anew", [], cell.wire.read(topic))


CHECKS = {
    "create-topic": create_topic,
    "auto-create": auto_create,
    **{"produce-" + codec: lambda cell, codec=codec: produce(cell, codec) for codec in CODECS},
    "idempotent": lambda cell: produce(cell, idempotent=True),
    "consume": consume,
    "seek": seek,
    "group": group,
    "group-cooperative": lambda cell: group(cell, cooperative=True),
    "commit": commit,
    "list-topics": list_topics,
    "describe-topic": describe_topic,
    "describe-cluster": describe_cluster,
    "list-offsets": list_offsets,
    "describe-configs": describe_configs,
    "alter-configs": alter_configs,
    "incremental-alter-configs": incremental_alter_configs,
    "create-partitions": create_partitions,
    "delete-records": delete_records,
    "list-groups": list_groups,
    "describe-group": describe_group,
    "list-group-offsets": list_group_offsets,
    "alter-group-offsets": alter_group_offsets,
    "delete-group-offsets": delete_group_offsets,
    "delete-group": delete_group,
    "describe-log-dirs": describe_log_dirs,
    "list-config-resources": list_config_resources,
    "delete-topic": delete_topic,
}
