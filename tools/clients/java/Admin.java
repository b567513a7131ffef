import java.util.*;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;

/** Administers a broker with Kafka's Java client: {@code Admin BOOTSTRAP CALL ARGUMENTS}, one line of JSON for a question. */
public class Admin {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> config = Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        try (var admin = org.apache.kafka.clients.admin.Admin.create(config)) {
            String answer = call(admin, arguments[1], Arrays.copyOfRange(arguments, 2, arguments.length));
            if (answer != null) {
                System.out.println(answer);
            }
        }
    }

    /** Makes one call. The first argument names a topic or a group. */
    static String call(org.apache.kafka.clients.admin.Admin admin, String call, String... arguments) throws Exception {
        String name = arguments.length > 0 ? arguments[0] : "";
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, name);
        switch (call) {
            case "create-topic" -> {
                var topic = new NewTopic(name, Integer.parseInt(arguments[1]), (short) 1).configs(Map.of("retention.ms", "7654321"));
                admin.createTopics(List.of(topic)).all().get();
            }
            case "list-topics" -> {
                return json(admin.listTopics().names().get());
            }
            case "describe-topic" -> {
                return json(partitions(admin, name).stream().map(TopicPartition::partition).toList());
            }
            case "describe-cluster" -> {
                var cluster = admin.describeCluster();
                var nodes = cluster.nodes().get().stream().map(Node::id).toList();
                return json(Map.of("cluster", cluster.clusterId().get(), "nodes", nodes));
            }
            case "describe-configs" -> {
                Map<String, Object> values = new TreeMap<>();
                var entries = admin.describeConfigs(List.of(resource)).all().get().get(resource).entries();
                entries.forEach(entry -> values.put(entry.name(), entry.value()));
                return json(values);
            }
            case "incremental-alter-configs" -> {
                var change = new AlterConfigOp(new ConfigEntry(arguments[1], arguments[2]), AlterConfigOp.OpType.SET);
                admin.incrementalAlterConfigs(Map.of(resource, List.of(change))).all().get();
            }
            case "create-partitions" -> {
                var total = NewPartitions.increaseTo(Integer.parseInt(arguments[1]));
                admin.createPartitions(Map.of(name, total)).all().get();
            }
            case "list-offsets" -> {
                Map<String, Object> offsets = new TreeMap<>();
                for (TopicPartition partition : partitions(admin, name)) {
                    var start = admin.listOffsets(Map.of(partition, OffsetSpec.earliest())).partitionResult(partition).get();
                    var end = admin.listOffsets(Map.of(partition, OffsetSpec.latest())).partitionResult(partition).get();
                    offsets.put("" + partition.partition(), List.of(start.offset(), end.offset()));
                }
                return json(offsets);
            }
            case "delete-records" -> {
                var partition = new TopicPartition(name, Integer.parseInt(arguments[1]));
                var before = RecordsToDelete.beforeOffset(Long.parseLong(arguments[2]));
                admin.deleteRecords(Map.of(partition, before)).all().get();
            }
            case "list-groups" -> {
                return json(admin.listGroups().all().get().stream().map(GroupListing::groupId).toList());
            }
            case "describe-group" -> {
                var members = admin.describeConsumerGroups(List.of(name)).all().get().get(name).members();
                return json(members.stream().map(member -> Map.of(
                    "client", member.clientId(),
                    "partitions", member.assignment().topicPartitions().stream().map(TopicPartition::partition).toList())).toList());
            }
            case "list-group-offsets" -> {
                Map<String, Object> offsets = new TreeMap<>();
                admin.listConsumerGroupOffsets(name).partitionsToOffsetAndMetadata().get().forEach((partition, committed) -> {
                    if (partition.topic().equals(arguments[1])) {
                        offsets.put("" + partition.partition(), committed.offset());
                    }
                });
                return json(offsets);
            }
            case "alter-group-offsets" -> {
                var partition = new TopicPartition(arguments[1], Integer.parseInt(arguments[2]));
                var offset = new OffsetAndMetadata(Long.parseLong(arguments[3]));
                admin.alterConsumerGroupOffsets(name, Map.of(partition, offset)).all().get();
            }
            case "delete-group-offsets" -> {
                var partition = new TopicPartition(arguments[1], Integer.parseInt(arguments[2]));
                admin.deleteConsumerGroupOffsets(name, Set.of(partition)).all().get();
            }
            case "delete-group" -> admin.deleteConsumerGroups(List.of(name)).all().get();
            case "describe-log-dirs" -> {
                Map<String, Object> sizes = new TreeMap<>();
                var nodes = admin.describeCluster().nodes().get().stream().map(Node::id).toList();
                for (var directories : admin.describeLogDirs(nodes).allDescriptions().get().values()) {
                    for (var directory : directories.values()) {
                        directory.replicaInfos().forEach((partition, replica) -> {
                            if (partition.topic().equals(name)) {
                                sizes.put("" + partition.partition(), replica.size());
                            }
                        });
                    }
                }
                return json(sizes);
            }
            case "list-config-resources" -> {
                var types = Set.of(ConfigResource.Type.TOPIC);
                var resources = admin.listConfigResources(types, new ListConfigResourcesOptions()).all().get();
                return json(resources.stream().map(ConfigResource::name).toList());
            }
            case "delete-topic" -> admin.deleteTopics(List.of(name)).all().get();
            default -> throw new IllegalArgumentException(call);
        }
        return null;
    }

    static List<TopicPartition> partitions(org.apache.kafka.clients.admin.Admin admin, String topic) throws Exception {
        var description = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        return description.partitions().stream().map(p -> new TopicPartition(topic, p.partition())).toList();
    }

    /** JSON of maps, collections, numbers and texts without characters that JSON would want escaped. */
    static String json(Object value) {
        if (value instanceof Map<?, ?> map) {
            return map.entrySet().stream().map(e -> json("" + e.getKey()) + ": " + json(e.getValue())).collect(Collectors.joining(", ", "{", "}"));
        }
        if (value instanceof Collection<?> elements) {
            return elements.stream().map(Admin::json).collect(Collectors.joining(", ", "[", "]"));
        }
        return value instanceof String ? '"' + (String) value + '"' : String.valueOf(value);
    }
}
