"""Administers a broker with kafka-python: kafka_python_admin.py BOOTSTRAP CALL ARGUMENTS, one line of JSON for a question."""

import json
import sys

from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, OffsetSpec

_, bootstrap, call, *arguments = sys.argv
admin = KafkaAdminClient(bootstrap_servers=bootstrap)


def check(errors):
    """Raises the first error of {partition: error class}."""
    for error in errors.values():
        if error.errno:
            raise error()


def create_topic(topic, partitions):
    options = {"num_partitions": int(partitions), "configs": {"retention.ms": "7654321"}}
    admin.create_topics({topic: options})


def list_topics():
    return admin.list_topics()


def describe_topic(topic):
    return [p["partition_index"] for p in admin.describe_topics([topic])[0]["partitions"]]


def describe_cluster():
    cluster = admin.describe_cluster()
    return {"cluster": cluster["cluster_id"], "nodes": [broker["broker_id"] for broker in cluster["brokers"]]}


def describe_configs(topic):
    answer = admin.describe_configs([ConfigResource("topic", topic)], config_filter="all")
    return {name: config["value"] for name, config in answer["topic"][topic].items()}


def alter_configs(topic, name, value):
    admin.alter_configs([ConfigResource("topic", topic, {name: value})], incremental=False)


def incremental_alter_configs(topic, name, value):
    admin.alter_configs([ConfigResource("topic", topic, {name: value})], incremental=True)


def create_partitions(topic, total):
    admin.create_partitions({topic: int(total)})


def list_offsets(topic):
    partitions = [TopicPartition(topic, p) for p in describe_topic(topic)]
    starts = admin.list_partition_offsets({p: OffsetSpec.EARLIEST for p in partitions})
    ends = admin.list_partition_offsets({p: OffsetSpec.LATEST for p in partitions})
    return {p.partition: [starts[p].offset, ends[p].offset] for p in partitions}


def delete_records(topic, partition, offset):
    admin.delete_records({TopicPartition(topic, int(partition)): int(offset)})


def list_groups():
    return [group["group_id"] for group in admin.list_groups()]


def describe_group(group):
    description = admin.describe_groups([group])[group]
    return [{"client": member["client_id"],
             "partitions": [p for topic in member["member_assignment"]["assigned_partitions"] for p in topic["partitions"]]}
            for member in description["members"]]


def list_group_offsets(group, topic):
    offsets = admin.list_group_offsets(group)[group]
    return {p.partition: committed.offset for p, committed in offsets.items() if p.topic == topic}


def alter_group_offsets(group, topic, partition, offset):
    check(admin.alter_group_offsets(group, {TopicPartition(topic, int(partition)): OffsetAndMetadata(int(offset))}))


def delete_group_offsets(group, topic, partition):
    check(admin.delete_group_offsets(group, [TopicPartition(topic, int(partition))]))


def delete_group(group):
    outcome = admin.delete_groups([group])[group]
    if outcome != "OK":
        sys.exit(outcome)


def describe_log_dirs(topic):
    directories = [d for broker in admin.describe_log_dirs([topic]) for d in broker["log_dirs"]]
    return {p["partition_index"]: p["partition_size"]
            for d in directories for t in d["topics"] if t["name"] == topic for p in t["partitions"]}


def list_config_resources():
    return admin.list_config_resources(["TOPIC"])["topic"]


def delete_topic(topic):
    admin.delete_topics([topic])


answer = globals()[call.replace("-", "_")](*arguments)
if answer is not None:
    print(json.dumps(answer))
