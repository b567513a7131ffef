"""Administers a broker with confluent-kafka: confluent_admin.py BOOTSTRAP CALL ARGUMENTS, one line of JSON for a question."""

import json
import sys

from confluent_kafka import ConsumerGroupTopicPartitions, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec)

_, bootstrap, call, *arguments = sys.argv
admin = AdminClient({"bootstrap.servers": bootstrap})


def results(futures):
    return {key: future.result(20) for key, future in futures.items()}


def create_topic(topic, partitions):
    results(admin.create_topics([NewTopic(topic, int(partitions), 1, config={"retention.ms": "7654321"})]))


def list_topics():
    return sorted(admin.list_topics(timeout=20).topics)


def describe_topic(topic):
    description = admin.describe_topics(TopicCollection([topic]))[topic].result(20)
    return [p.id for p in description.partitions]


def describe_cluster():
    cluster = admin.describe_cluster().result(20)
    return {"cluster": cluster.cluster_id, "nodes": [node.id for node in cluster.nodes]}


def describe_configs(topic):
    entries = admin.describe_configs([ConfigResource("topic", topic)])
    return {name: entry.value for configs in results(entries).values() for name, entry in configs.items()}


def alter_configs(topic, name, value):
    results(admin.alter_configs([ConfigResource("topic", topic, set_config={name: value})]))


def incremental_alter_configs(topic, name, value):
    change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    results(admin.incremental_alter_configs([ConfigResource("topic", topic, incremental_configs=[change])]))


def create_partitions(topic, total):
    results(admin.create_partitions([NewPartitions(topic, int(total))]))


def list_offsets(topic):
    partitions = [TopicPartition(topic, p) for p in admin.list_topics(topic, 20).topics[topic].partitions]
    ends = results(admin.list_offsets({p: OffsetSpec.latest() for p in partitions}))
    starts = results(admin.list_offsets({p: OffsetSpec.earliest() for p in partitions}))
    return {p.partition: [starts[p].offset, ends[p].offset] for p in partitions}


def delete_records(topic, partition, offset):
    results(admin.delete_records([TopicPartition(topic, int(partition), int(offset))]))


def list_groups():
    return [group.group_id for group in admin.list_consumer_groups().result(20).valid]


def describe_group(group):
    description = admin.describe_consumer_groups([group])[group].result(20)
    return [{"client": m.client_id, "partitions": [p.partition for p in m.assignment.topic_partitions]}
            for m in description.members]


def list_group_offsets(group, topic):
    answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(20)
    return {p.partition: p.offset for p in answer.topic_partitions if p.topic == topic}


def alter_group_offsets(group, topic, partition, offset):
    change = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, int(partition), int(offset))])
    results(admin.alter_consumer_group_offsets([change]))


def delete_group(group):
    results(admin.delete_consumer_groups([group]))


def delete_topic(topic):
    results(admin.delete_topics([topic]))


answer = globals()[call.replace("-", "_")](*arguments)
if answer is not None:
    print(json.dumps(answer))
