// Produces and consumes with librdkafka.
//
// client BOOTSTRAP produce TOPIC CODEC [idempotent]   lines KEY<tab>VALUE from stdin
// client BOOTSTRAP consume TOPIC [TIMESTAMP]          all there is, or all since TIMESTAMP (ms)
// client BOOTSTRAP group GROUP TOPIC [COUNT]          as a group member; commits every record, ends after COUNT
// client BOOTSTRAP cooperative GROUP TOPIC            the same without an end, rebalancing cooperatively

#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void check(const char *what, rd_kafka_resp_err_t error) {
    if (error) fail(what, rd_kafka_err2str(error));
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof why)) fail(name, why);
}

static rd_kafka_t *new_client(rd_kafka_type_t type, rd_kafka_conf_t *conf) {
    char why[256];
    rd_kafka_t *client = rd_kafka_new(type, conf, why, sizeof why);
    if (!client) fail("rd_kafka_new", why);
    return client;
}

static void on_delivery(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
    (void)client, (void)opaque;
    check("delivery", message->err);
    printf("{\"partition\": %d, \"offset\": %lld}\n", message->partition, (long long)message->offset);
}

static void produce(rd_kafka_conf_t *conf, const char *topic, const char *codec, int idempotent) {
    set(conf, "compression.type", codec);
    set(conf, "enable.idempotence", idempotent ? "true" : "false");
    set(conf, "acks", "all");
    set(conf, "linger.ms", "20");
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_t *producer = new_client(RD_KAFKA_PRODUCER, conf);

    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, stdin) > 0) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, '\t');
        if (!value) fail("stdin", "a line without a tab");
        *value++ = 0;
        check("produce", rd_kafka_producev(
            producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
            RD_KAFKA_V_KEY(*line ? line : NULL, strlen(line)), RD_KAFKA_V_VALUE(value, strlen(value)),
            RD_KAFKA_V_HEADER("client", "librdkafka", -1), RD_KAFKA_V_END));
        rd_kafka_poll(producer, 0);
    }
    free(line);
    check("flush", rd_kafka_flush(producer, 30000));
    rd_kafka_destroy(producer);
}

// JSON of a text without characters that JSON would want escaped.
static void print_text(const char *name, const void *text, size_t size) {
    if (text) printf("\"%s\": \"%.*s\"", name, (int)size, (const char *)text);
    else printf("\"%s\": null", name);
}

static void print_record(const rd_kafka_message_t *message) {
    printf("{\"partition\": %d, \"offset\": %lld, \"timestamp\": %lld, ", message->partition,
           (long long)message->offset, (long long)rd_kafka_message_timestamp(message, NULL));
    print_text("key", message->key, message->key_len);
    printf(", ");
    print_text("value", message->payload, message->len);
    printf(", \"headers\": {");
    rd_kafka_headers_t *headers;
    const char *name;
    const void *value;
    size_t size;
    if (!rd_kafka_message_headers(message, &headers)) {
        for (size_t i = 0; !rd_kafka_header_get_all(headers, i, &name, &value, &size); i++) {
            printf("%s", i ? ", " : "");
            print_text(name, value, size);
        }
    }
    printf("}}\n");
    fflush(stdout);
}

static void consume(rd_kafka_conf_t *conf, const char *topic, const char *timestamp) {
    set(conf, "group.id", "unused");
    set(conf, "enable.auto.commit", "false");
    set(conf, "enable.partition.eof", "true");
    rd_kafka_t *consumer = new_client(RD_KAFKA_CONSUMER, conf);
    rd_kafka_poll_set_consumer(consumer);

    const struct rd_kafka_metadata *metadata;
    rd_kafka_topic_t *handle = rd_kafka_topic_new(consumer, topic, NULL);
    check("metadata", rd_kafka_metadata(consumer, 0, handle, &metadata, 10000));
    int partitions = metadata->topics[0].partition_cnt;
    rd_kafka_metadata_destroy(metadata);
    rd_kafka_topic_destroy(handle);

    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int p = 0; p < partitions; p++) {
        int64_t from = timestamp ? atoll(timestamp) : RD_KAFKA_OFFSET_BEGINNING;
        rd_kafka_topic_partition_list_add(list, topic, p)->offset = from;
    }
    if (timestamp) check("offsets for times", rd_kafka_offsets_for_times(consumer, list, 10000));
    check("assign", rd_kafka_assign(consumer, list));
    rd_kafka_topic_partition_list_destroy(list);

    for (int at_end = 0; at_end < partitions;) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 1000);
        if (!message) continue;
        if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) at_end++;
        else if (message->err) fail("consume", rd_kafka_message_errstr(message));
        else print_record(message);
        rd_kafka_message_destroy(message);
    }
    rd_kafka_consumer_close(consumer);
    rd_kafka_destroy(consumer);
}

static void on_rebalance(rd_kafka_t *consumer, rd_kafka_resp_err_t error,
                         rd_kafka_topic_partition_list_t *partitions, void *opaque) {
    (void)opaque;
    int assigned = error == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
    printf("{\"%s\": [", assigned ? "assigned" : "revoked");
    for (int i = 0; i < partitions->cnt; i++) printf("%s%d", i ? ", " : "", partitions->elems[i].partition);
    printf("]}\n");
    fflush(stdout);
    rd_kafka_error_t *failed = NULL;
    if (strcmp(rd_kafka_rebalance_protocol(consumer), "COOPERATIVE")) rd_kafka_assign(consumer, assigned ? partitions : NULL);
    else if (assigned) failed = rd_kafka_incremental_assign(consumer, partitions);
    else failed = rd_kafka_incremental_unassign(consumer, partitions);
    if (failed) fail("assign", rd_kafka_error_string(failed));
}

static void group(rd_kafka_conf_t *conf, const char *id, const char *topic, long left, const char *strategy) {
    set(conf, "group.id", id);
    set(conf, "auto.offset.reset", "earliest");
    set(conf, "enable.auto.commit", "false");
    set(conf, "partition.assignment.strategy", strategy);
    set(conf, "session.timeout.ms", "6000");
    set(conf, "heartbeat.interval.ms", "500");
    rd_kafka_conf_set_rebalance_cb(conf, on_rebalance);
    rd_kafka_t *consumer = new_client(RD_KAFKA_CONSUMER, conf);
    rd_kafka_poll_set_consumer(consumer);

    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(topics, topic, RD_KAFKA_PARTITION_UA);
    check("subscribe", rd_kafka_subscribe(consumer, topics));
    rd_kafka_topic_partition_list_destroy(topics);

    while (left != 0) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 1000);
        if (!message) continue;
        if (message->err) fail("consume", rd_kafka_message_errstr(message));
        print_record(message);
        check("commit", rd_kafka_commit_message(consumer, message, 0));
        rd_kafka_message_destroy(message);
        if (left > 0) left--;
    }
    rd_kafka_consumer_close(consumer);
    rd_kafka_destroy(consumer);
}

int main(int count, char **arguments) {
    if (count < 4) fail("usage", "client BOOTSTRAP produce|consume|group|cooperative ...");
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", arguments[1]);
    char **rest = arguments + 3;
    if (!strcmp(arguments[2], "produce") && count >= 5) produce(conf, rest[0], rest[1], count > 5);
    else if (!strcmp(arguments[2], "consume")) consume(conf, rest[0], count > 4 ? rest[1] : NULL);
    else if (!strcmp(arguments[2], "group") && count >= 5) group(conf, rest[0], rest[1], count > 5 ? atol(rest[2]) : -1, "range");
    else if (!strcmp(arguments[2], "cooperative") && count >= 5) group(conf, rest[0], rest[1], -1, "cooperative-sticky");
    else fail("usage", "client BOOTSTRAP produce|consume|group|cooperative ...");
    return 0;
}
