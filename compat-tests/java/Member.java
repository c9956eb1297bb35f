import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Is a member of a group: BOOTSTRAP GROUP TOPIC HOW, where HOW is protocol/assignor. It prints a line for each record
 * read and each commit acknowledged, and leaves in order when it is told to end.
 */
public final class Member {
    static volatile boolean ending;
    // Not buffered: what is committed has been printed, however this ends.
    static final PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);

    public static void main(String[] args) throws Exception {
        String protocol = args[3].split("/")[0], assignor = args[3].split("/")[1];
        Properties p = new Properties();
        p.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        p.put(ConsumerConfig.GROUP_ID_CONFIG, args[1]);
        p.put(ConsumerConfig.GROUP_PROTOCOL_CONFIG, protocol);
        p.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        p.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
        p.put(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG, "200");
        p.put(ConsumerConfig.METADATA_MAX_AGE_CONFIG, "1000");
        p.put(ConsumerConfig.DEFAULT_API_TIMEOUT_MS_CONFIG, "10000");
        p.put(ConsumerConfig.REQUEST_TIMEOUT_MS_CONFIG, "5000");
        p.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, StringDeserializer.class);
        p.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, StringDeserializer.class);
        if (protocol.equals("consumer")) {
            p.put(ConsumerConfig.GROUP_REMOTE_ASSIGNOR_CONFIG, assignor);
        } else {
            p.put(ConsumerConfig.PARTITION_ASSIGNMENT_STRATEGY_CONFIG, "org.apache.kafka.clients.consumer." + assignor);
            p.put(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, System.getProperty("session.ms"));
            p.put(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, System.getProperty("heartbeat.ms"));
        }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            ending = true;
            try {
                Thread.currentThread().join(); // main halts
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }));
        try (KafkaConsumer<String, String> c = new KafkaConsumer<>(p)) {
            consume(c, args[2]);
        } catch (Throwable t) {
            t.printStackTrace();
            Runtime.getRuntime().halt(1);
        }
        Runtime.getRuntime().halt(0); // what is told to end would not end with 0 by itself
    }

    static void consume(KafkaConsumer<String, String> c, String topic) {
        Map<TopicPartition, OffsetAndMetadata> read = new HashMap<>(); // not committed yet, of partitions that are ours
        c.subscribe(List.of(topic), new ConsumerRebalanceListener() {
            public void onPartitionsAssigned(Collection<TopicPartition> all) {
                System.err.println("assigned: " + all);
            }

            public void onPartitionsRevoked(Collection<TopicPartition> all) {
                System.err.println("revoked: " + all);
                commit(c, read);
                read.keySet().removeAll(all);
            }

            public void onPartitionsLost(Collection<TopicPartition> all) {
                System.err.println("lost: " + all);
                read.keySet().removeAll(all);
            }
        });
        while (!ending) {
            for (ConsumerRecord<String, String> r : c.poll(Duration.ofMillis(100))) {
                out.println("read\t" + r.partition() + "\t" + r.offset() + "\t" + r.value());
                read.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
            }
            commit(c, read);
        }
        commit(c, read);
    }

    /** Commits, or leaves it for the next time. */
    static void commit(KafkaConsumer<String, String> c, Map<TopicPartition, OffsetAndMetadata> read) {
        if (read.isEmpty()) {
            return;
        }
        try {
            c.commitSync(read);
        } catch (KafkaException e) {
            System.err.println("commit: " + e);
            return;
        }
        read.forEach((at, offset) -> out.println("committed\t" + at.partition() + "\t" + offset.offset()));
        read.clear();
    }
}
