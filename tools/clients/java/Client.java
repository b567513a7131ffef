import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/**
 * Produces and consumes with Kafka's Java client.
 *
 * <pre>
 * Client BOOTSTRAP produce TOPIC CODEC [idempotent]   lines KEY<tab>VALUE from stdin
 * Client BOOTSTRAP consume TOPIC [TIMESTAMP]          all there is, or all since TIMESTAMP (ms)
 * Client BOOTSTRAP group GROUP TOPIC [COUNT]          as a group member; commits every record, ends after COUNT
 * Client BOOTSTRAP cooperative GROUP TOPIC            the same without an end, rebalancing cooperatively
 * </pre>
 */
public class Client {
    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0];
        List<String> rest = Arrays.asList(arguments).subList(2, arguments.length);
        switch (arguments[1]) {
            case "produce" -> produce(bootstrap, rest.get(0), rest.get(1), rest.size() > 2);
            case "consume" -> consume(bootstrap, rest.get(0), rest.size() > 1 ? Long.valueOf(rest.get(1)) : null);
            case "group" -> group(bootstrap, rest.get(0), rest.get(1),
                rest.size() > 2 ? Long.parseLong(rest.get(2)) : Long.MAX_VALUE, RangeAssignor.class);
            case "cooperative" -> group(bootstrap, rest.get(0), rest.get(1), Long.MAX_VALUE, CooperativeStickyAssignor.class);
            default -> throw new IllegalArgumentException(arguments[1]);
        }
    }

    static void produce(String bootstrap, String topic, String codec, boolean idempotent) throws Exception {
        Map<String, Object> config = Map.of(
            ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap,
            ProducerConfig.COMPRESSION_TYPE_CONFIG, codec,
            ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, idempotent,
            ProducerConfig.ACKS_CONFIG, "all",
            ProducerConfig.LINGER_MS_CONFIG, 20);
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            var lines = new BufferedReader(new InputStreamReader(System.in));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] columns = line.split("\t", 2);
                String key = columns[0].isEmpty() ? null : columns[0];
                var record = new ProducerRecord<>(topic, key, columns[1]);
                record.headers().add("client", "java".getBytes());
                sent.add(producer.send(record));
            }
            for (Future<RecordMetadata> future : sent) {
                RecordMetadata metadata = future.get();
                System.out.printf("{\"partition\": %d, \"offset\": %d}%n", metadata.partition(), metadata.offset());
            }
        }
    }

    static KafkaConsumer<String, String> consumer(String bootstrap, Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>(more);
        config.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        config.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        return new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
    }

    static void consume(String bootstrap, String topic, Long timestamp) {
        try (var consumer = consumer(bootstrap, Map.of())) {
            List<TopicPartition> partitions = new ArrayList<>();
            consumer.partitionsFor(topic).forEach(p -> partitions.add(new TopicPartition(topic, p.partition())));
            consumer.assign(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            if (timestamp == null) {
                consumer.seekToBeginning(partitions);
            } else {
                Map<TopicPartition, Long> times = new HashMap<>();
                partitions.forEach(p -> times.put(p, timestamp));
                consumer.offsetsForTimes(times).forEach((partition, found) ->
                    consumer.seek(partition, found == null ? ends.get(partition) : found.offset()));
            }
            while (partitions.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
                consumer.poll(Duration.ofSeconds(1)).forEach(Client::print);
            }
        }
    }

    static void group(String bootstrap, String group, String topic, long count, Class<?> assignor) {
        Map<String, Object> config = Map.of(
            ConsumerConfig.GROUP_ID_CONFIG, group,
            ConsumerConfig.PARTITION_ASSIGNMENT_STRATEGY_CONFIG, assignor.getName(),
            ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, 6000,
            ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, 500);
        try (var consumer = consumer(bootstrap, config)) {
            consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
                public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                    System.out.println("{\"revoked\": " + partitions.stream().map(TopicPartition::partition).toList() + "}");
                }

                public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                    System.out.println("{\"assigned\": " + partitions.stream().map(TopicPartition::partition).toList() + "}");
                }
            });
            while (count > 0) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
                    print(record);
                    var partition = new TopicPartition(record.topic(), record.partition());
                    consumer.commitSync(Map.of(partition, new OffsetAndMetadata(record.offset() + 1)));
                    if (--count == 0) {
                        break;
                    }
                }
            }
        }
    }

    static void print(ConsumerRecord<String, String> record) {
        StringJoiner headers = new StringJoiner(", ", "{", "}");
        record.headers().forEach(h -> headers.add(quote(h.key()) + ": " + quote(new String(h.value()))));
        System.out.printf("{\"partition\": %d, \"offset\": %d, \"timestamp\": %d, \"key\": %s, \"value\": %s, \"headers\": %s}%n",
            record.partition(), record.offset(), record.timestamp(), quote(record.key()), quote(record.value()), headers);
    }

    /** JSON of a text without characters that JSON would want escaped. */
    static String quote(String text) {
        return text == null ? "null" : '"' + text + '"';
    }
}
