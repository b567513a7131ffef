// Administers a broker with librdkafka: admin BOOTSTRAP CALL ARGUMENTS, one line of JSON for a question.

#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rd_kafka_t *client;
static rd_kafka_queue_t *queue;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void check(const char *what, rd_kafka_resp_err_t error) {
    if (error) fail(what, rd_kafka_err2str(error));
}

static void check_error(const char *what, const rd_kafka_error_t *error) {
    if (error) fail(what, rd_kafka_error_string(error));
}

// The answer to the call made last; ends the program if the whole call failed.
static rd_kafka_event_t *answer(void) {
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 20000);
    if (!event) fail("call", "no answer in 20 s");
    if (rd_kafka_event_error(event)) fail("call", rd_kafka_event_error_string(event));
    return event;
}

static void check_topics(const rd_kafka_topic_result_t **topics, size_t count) {
    for (size_t i = 0; i < count; i++) {
        check(rd_kafka_topic_result_error_string(topics[i]) ?: "topic", rd_kafka_topic_result_error(topics[i]));
    }
}

static void check_groups(const rd_kafka_group_result_t **groups, size_t count) {
    for (size_t i = 0; i < count; i++) {
        check_error(rd_kafka_group_result_name(groups[i]), rd_kafka_group_result_error(groups[i]));
        const rd_kafka_topic_partition_list_t *partitions = rd_kafka_group_result_partitions(groups[i]);
        for (int p = 0; partitions && p < partitions->cnt; p++) check("partition", partitions->elems[p].err);
    }
}

static rd_kafka_topic_partition_list_t *one_partition(const char *topic, int partition, int64_t offset) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
    return list;
}

static void print_partitions(const rd_kafka_topic_partition_list_t *list) {
    printf("[");
    for (int i = 0; list && i < list->cnt; i++) printf("%s%d", i ? ", " : "", list->elems[i].partition);
    printf("]");
}

// Metadata of one topic, or of all of them.
static const struct rd_kafka_metadata *metadata(const char *topic) {
    const struct rd_kafka_metadata *metadata;
    rd_kafka_topic_t *handle = topic ? rd_kafka_topic_new(client, topic, NULL) : NULL;
    check("metadata", rd_kafka_metadata(client, !topic, handle, &metadata, 20000));
    if (handle) rd_kafka_topic_destroy(handle);
    return metadata;
}

static void create_topic(char **arguments) {
    char why[256];
    rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(arguments[0], atoi(arguments[1]), 1, why, sizeof why);
    if (!topic) fail("create topic", why);
    check("config", rd_kafka_NewTopic_set_config(topic, "retention.ms", "7654321"));
    rd_kafka_CreateTopics(client, &topic, 1, NULL, queue);
    size_t count;
    const rd_kafka_topic_result_t **topics = rd_kafka_CreateTopics_result_topics(answer(), &count);
    check_topics(topics, count);
}

static void list_topics(char **arguments) {
    (void)arguments;
    const struct rd_kafka_metadata *all = metadata(NULL);
    printf("[");
    for (int i = 0; i < all->topic_cnt; i++) printf("%s\"%s\"", i ? ", " : "", all->topics[i].topic);
    printf("]\n");
}

static void describe_topic(char **arguments) {
    const struct rd_kafka_metadata_topic *topic = metadata(arguments[0])->topics;
    check("topic", topic->err);
    printf("[");
    for (int i = 0; i < topic->partition_cnt; i++) printf("%s%d", i ? ", " : "", topic->partitions[i].id);
    printf("]\n");
}

static void describe_cluster(char **arguments) {
    (void)arguments;
    const struct rd_kafka_metadata *all = metadata(NULL);
    printf("{\"cluster\": \"%s\", \"nodes\": [", rd_kafka_clusterid(client, 20000));
    for (int i = 0; i < all->broker_cnt; i++) printf("%s%d", i ? ", " : "", all->brokers[i].id);
    printf("]}\n");
}

static void describe_configs(char **arguments) {
    rd_kafka_ConfigResource_t *topic = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, arguments[0]);
    rd_kafka_DescribeConfigs(client, &topic, 1, NULL, queue);
    size_t count;
    const rd_kafka_ConfigResource_t **resources = rd_kafka_DescribeConfigs_result_resources(answer(), &count);
    check("describe configs", rd_kafka_ConfigResource_error(resources[0]));
    const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(resources[0], &count);
    printf("{");
    for (size_t i = 0; i < count; i++) {
        const char *value = rd_kafka_ConfigEntry_value(entries[i]);
        printf("%s\"%s\": \"%s\"", i ? ", " : "", rd_kafka_ConfigEntry_name(entries[i]), value ? value : "");
    }
    printf("}\n");
}

static void alter_configs(char **arguments) {
    rd_kafka_ConfigResource_t *topic = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, arguments[0]);
    check("config", rd_kafka_ConfigResource_set_config(topic, arguments[1], arguments[2]));
    rd_kafka_AlterConfigs(client, &topic, 1, NULL, queue);
    size_t count;
    const rd_kafka_ConfigResource_t **resources = rd_kafka_AlterConfigs_result_resources(answer(), &count);
    check("alter configs", rd_kafka_ConfigResource_error(resources[0]));
}

static void create_partitions(char **arguments) {
    char why[256];
    rd_kafka_NewPartitions_t *total = rd_kafka_NewPartitions_new(arguments[0], atoi(arguments[1]), why, sizeof why);
    if (!total) fail("create partitions", why);
    rd_kafka_CreatePartitions(client, &total, 1, NULL, queue);
    size_t count;
    const rd_kafka_topic_result_t **topics = rd_kafka_CreatePartitions_result_topics(answer(), &count);
    check_topics(topics, count);
}

static void list_offsets(char **arguments) {
    int partitions = metadata(arguments[0])->topics[0].partition_cnt;
    printf("{");
    for (int p = 0; p < partitions; p++) {
        int64_t start, end;
        check("offsets", rd_kafka_query_watermark_offsets(client, arguments[0], p, &start, &end, 20000));
        printf("%s\"%d\": [%lld, %lld]", p ? ", " : "", p, (long long)start, (long long)end);
    }
    printf("}\n");
}

static void delete_records(char **arguments) {
    rd_kafka_DeleteRecords_t *before =
        rd_kafka_DeleteRecords_new(one_partition(arguments[0], atoi(arguments[1]), atoll(arguments[2])));
    rd_kafka_DeleteRecords(client, &before, 1, NULL, queue);
    check("delete records", rd_kafka_DeleteRecords_result_offsets(answer())->elems[0].err);
}

static void list_groups(char **arguments) {
    (void)arguments;
    rd_kafka_ListConsumerGroups(client, NULL, queue);
    const rd_kafka_ListConsumerGroups_result_t *result = answer();
    size_t count;
    const rd_kafka_error_t **errors = rd_kafka_ListConsumerGroups_result_errors(result, &count);
    if (count) check_error("list groups", errors[0]);
    const rd_kafka_ConsumerGroupListing_t **groups = rd_kafka_ListConsumerGroups_result_valid(result, &count);
    printf("[");
    for (size_t i = 0; i < count; i++) {
        printf("%s\"%s\"", i ? ", " : "", rd_kafka_ConsumerGroupListing_group_id(groups[i]));
    }
    printf("]\n");
}

static void describe_group(char **arguments) {
    rd_kafka_DescribeConsumerGroups(client, (const char **)arguments, 1, NULL, queue);
    size_t count;
    const rd_kafka_ConsumerGroupDescription_t **groups = rd_kafka_DescribeConsumerGroups_result_groups(answer(), &count);
    check_error("describe group", rd_kafka_ConsumerGroupDescription_error(groups[0]));
    printf("[");
    for (size_t i = 0; i < rd_kafka_ConsumerGroupDescription_member_count(groups[0]); i++) {
        const rd_kafka_MemberDescription_t *member = rd_kafka_ConsumerGroupDescription_member(groups[0], i);
        printf("%s{\"client\": \"%s\", \"partitions\": ", i ? ", " : "", rd_kafka_MemberDescription_client_id(member));
        print_partitions(rd_kafka_MemberAssignment_partitions(rd_kafka_MemberDescription_assignment(member)));
        printf("}");
    }
    printf("]\n");
}

static void list_group_offsets(char **arguments) {
    rd_kafka_ListConsumerGroupOffsets_t *group = rd_kafka_ListConsumerGroupOffsets_new(arguments[0], NULL);
    rd_kafka_ListConsumerGroupOffsets(client, &group, 1, NULL, queue);
    size_t count;
    const rd_kafka_group_result_t **groups = rd_kafka_ListConsumerGroupOffsets_result_groups(answer(), &count);
    check_groups(groups, count);
    const rd_kafka_topic_partition_list_t *partitions = rd_kafka_group_result_partitions(groups[0]);
    const char *separator = "";
    printf("{");
    for (int i = 0; partitions && i < partitions->cnt; i++) {
        if (strcmp(partitions->elems[i].topic, arguments[1]) || partitions->elems[i].offset < 0) continue;
        printf("%s\"%d\": %lld", separator, partitions->elems[i].partition, (long long)partitions->elems[i].offset);
        separator = ", ";
    }
    printf("}\n");
}

static void alter_group_offsets(char **arguments) {
    rd_kafka_AlterConsumerGroupOffsets_t *change = rd_kafka_AlterConsumerGroupOffsets_new(
        arguments[0], one_partition(arguments[1], atoi(arguments[2]), atoll(arguments[3])));
    rd_kafka_AlterConsumerGroupOffsets(client, &change, 1, NULL, queue);
    size_t count;
    const rd_kafka_group_result_t **groups = rd_kafka_AlterConsumerGroupOffsets_result_groups(answer(), &count);
    check_groups(groups, count);
}

static void delete_group_offsets(char **arguments) {
    rd_kafka_DeleteConsumerGroupOffsets_t *which = rd_kafka_DeleteConsumerGroupOffsets_new(
        arguments[0], one_partition(arguments[1], atoi(arguments[2]), RD_KAFKA_OFFSET_INVALID));
    rd_kafka_DeleteConsumerGroupOffsets(client, &which, 1, NULL, queue);
    size_t count;
    const rd_kafka_group_result_t **groups = rd_kafka_DeleteConsumerGroupOffsets_result_groups(answer(), &count);
    check_groups(groups, count);
}

static void delete_group(char **arguments) {
    rd_kafka_DeleteGroup_t *group = rd_kafka_DeleteGroup_new(arguments[0]);
    rd_kafka_DeleteGroups(client, &group, 1, NULL, queue);
    size_t count;
    const rd_kafka_group_result_t **groups = rd_kafka_DeleteGroups_result_groups(answer(), &count);
    check_groups(groups, count);
}

static void delete_topic(char **arguments) {
    rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(arguments[0]);
    rd_kafka_DeleteTopics(client, &topic, 1, NULL, queue);
    size_t count;
    const rd_kafka_topic_result_t **topics = rd_kafka_DeleteTopics_result_topics(answer(), &count);
    check_topics(topics, count);
}

static const struct {
    const char *name;
    void (*make)(char **arguments);
    int arguments;
} CALLS[] = {
    {"create-topic", create_topic, 2},
    {"list-topics", list_topics, 0},
    {"describe-topic", describe_topic, 1},
    {"describe-cluster", describe_cluster, 0},
    {"describe-configs", describe_configs, 1},
    {"alter-configs", alter_configs, 3},
    {"create-partitions", create_partitions, 2},
    {"list-offsets", list_offsets, 1},
    {"delete-records", delete_records, 3},
    {"list-groups", list_groups, 0},
    {"describe-group", describe_group, 1},
    {"list-group-offsets", list_group_offsets, 2},
    {"alter-group-offsets", alter_group_offsets, 4},
    {"delete-group-offsets", delete_group_offsets, 3},
    {"delete-group", delete_group, 1},
    {"delete-topic", delete_topic, 1},
};

int main(int count, char **arguments) {
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (count < 3 || rd_kafka_conf_set(conf, "bootstrap.servers", arguments[1], why, sizeof why)) {
        fail("usage", "admin BOOTSTRAP CALL ARGUMENTS");
    }
    client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (!client) fail("rd_kafka_new", why);
    queue = rd_kafka_queue_new(client);
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++) {
        if (!strcmp(CALLS[i].name, arguments[2]) && count == 3 + CALLS[i].arguments) {
            CALLS[i].make(arguments + 3);
            return 0;
        }
    }
    fail("usage", "no such call, or a wrong number of arguments");
}
