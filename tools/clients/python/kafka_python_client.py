"""Produces and consumes with kafka-python.

kafka_python_client.py BOOTSTRAP produce TOPIC CODEC [idempotent]   lines KEY<tab>VALUE from stdin
kafka_python_client.py BOOTSTRAP consume TOPIC [TIMESTAMP]          all there is, or all since TIMESTAMP (ms)
kafka_python_client.py BOOTSTRAP group GROUP TOPIC [COUNT]          as a group member; commits every record, ends after COUNT
kafka_python_client.py BOOTSTRAP cooperative GROUP TOPIC            the same without an end, rebalancing cooperatively
"""

import json
import sys

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor


def produce(bootstrap, topic, codec, idempotent=""):
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        compression_type=None if codec == "none" else codec,
        enable_idempotence=bool(idempotent),
        acks="all",
        linger_ms=20,
    )
    sent = []
    for line in sys.stdin:
        key, value = line.rstrip("\n").split("\t")
        headers = [("client", b"kafka-python")]
        sent.append(producer.send(topic, value.encode(), key.encode() or None, headers))
    for future in sent:
        metadata = future.get(30)
        print(json.dumps({"partition": metadata.partition, "offset": metadata.offset}))
    producer.close()


def print_record(record):
    print(json.dumps({
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": record.key and record.key.decode(),
        "value": None if record.value is None else record.value.decode(),
        "headers": {name: value.decode() for name, value in record.headers},
    }), flush=True)


def consume(bootstrap, topic, timestamp=None):
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    if timestamp:
        found = consumer.offsets_for_times({p: int(timestamp) for p in partitions})
        for partition in partitions:
            consumer.seek(partition, found[partition].offset if found[partition] else ends[partition])
    else:
        consumer.seek_to_beginning()
    while any(consumer.position(p) < ends[p] for p in partitions):
        for records in consumer.poll(1000).values():
            for record in records:
                print_record(record)
    consumer.close()


class PrintAssignment(ConsumerRebalanceListener):
    def on_partitions_revoked(self, revoked):
        print(json.dumps({"revoked": [p.partition for p in revoked]}), flush=True)

    def on_partitions_assigned(self, assigned):
        print(json.dumps({"assigned": [p.partition for p in assigned]}), flush=True)


def cooperative(bootstrap, group_id, topic):
    group(bootstrap, group_id, topic, assignor=CooperativeStickyAssignor)


def group(bootstrap, group_id, topic, count=None, assignor=RangePartitionAssignor):
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group_id,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        partition_assignment_strategy=[assignor],
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
    )
    consumer.subscribe([topic], listener=PrintAssignment())
    left = int(count) if count else None
    for record in consumer:
        print_record(record)
        partition = TopicPartition(topic, record.partition)
        consumer.commit({partition: OffsetAndMetadata(record.offset + 1)})
        left = left and left - 1
        if left == 0:
            break
    consumer.close()


if __name__ == "__main__":
    _, bootstrap, command, *arguments = sys.argv
    {"produce": produce, "consume": consume, "group": group, "cooperative": cooperative}[command](bootstrap, *arguments)
