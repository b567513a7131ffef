"""Produces and consumes with confluent-kafka.

confluent_client.py BOOTSTRAP produce TOPIC CODEC [idempotent]   lines KEY<tab>VALUE from stdin
confluent_client.py BOOTSTRAP consume TOPIC [TIMESTAMP]          all there is, or all since TIMESTAMP (ms)
confluent_client.py BOOTSTRAP group GROUP TOPIC [COUNT]          as a group member; commits every record, ends after COUNT
confluent_client.py BOOTSTRAP cooperative GROUP TOPIC            the same without an end, rebalancing cooperatively
"""

import json
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition


def produce(bootstrap, topic, codec, idempotent=""):
    def on_delivery(error, message):
        if error:
            raise KafkaException(error)
        print(json.dumps({"partition": message.partition(), "offset": message.offset()}))

    producer = Producer({
        "bootstrap.servers": bootstrap,
        "compression.type": codec,
        "enable.idempotence": bool(idempotent),
        "acks": "all",
        "linger.ms": 20,
    })
    for line in sys.stdin:
        key, value = line.rstrip("\n").split("\t")
        producer.produce(topic, value, key or None, headers={"client": "confluent-kafka"}, on_delivery=on_delivery)
        producer.poll(0)
    if producer.flush(30):
        sys.exit("some records were not acknowledged")


def print_record(message):
    print(json.dumps({
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": message.timestamp()[1],
        "key": message.key() and message.key().decode(),
        "value": None if message.value() is None else message.value().decode(),
        "headers": {name: value.decode() for name, value in message.headers() or []},
    }), flush=True)


def consume(bootstrap, topic, timestamp=None):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False,
                         "enable.partition.eof": True})
    partitions = [TopicPartition(topic, p) for p in consumer.list_topics(topic, 10).topics[topic].partitions]
    for partition in partitions:
        partition.offset = int(timestamp) if timestamp else OFFSET_BEGINNING
    if timestamp:
        partitions = consumer.offsets_for_times(partitions, 10)
    consumer.assign(partitions)
    at_end = 0
    while at_end < len(partitions):
        message = consumer.poll(1)
        if message is None:
            continue
        if not message.error():
            print_record(message)
        elif message.error().code() == KafkaError._PARTITION_EOF:
            at_end += 1
        else:
            raise KafkaException(message.error())
    consumer.close()


def cooperative(bootstrap, group_id, topic):
    group(bootstrap, group_id, topic, strategy="cooperative-sticky")


def group(bootstrap, group_id, topic, count=None, strategy="range"):
    def on_assign(consumer, partitions):
        print(json.dumps({"assigned": [p.partition for p in partitions]}), flush=True)

    def on_revoke(consumer, partitions):
        print(json.dumps({"revoked": [p.partition for p in partitions]}), flush=True)

    consumer = Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": group_id,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "partition.assignment.strategy": strategy,
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 500,
    })
    consumer.subscribe([topic], on_assign=on_assign, on_revoke=on_revoke)
    left = int(count) if count else None
    while left is None or left > 0:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        print_record(message)
        consumer.commit(message, asynchronous=False)
        left = left and left - 1
    consumer.close()


if __name__ == "__main__":
    _, bootstrap, command, *arguments = sys.argv
    {"produce": produce, "consume": consume, "group": group, "cooperative": cooperative}[command](bootstrap, *arguments)
