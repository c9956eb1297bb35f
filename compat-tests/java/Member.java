import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** One member of a group: it prints the partition and offset of each record that it reads, and commits. */
public class Member {
    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("group.id", args[1]);
        p.put("group.protocol", args[3]);
        p.put(args[3].equals("consumer") ? "group.remote.assignor" : "partition.assignment.strategy", args[4]);
        if (args[3].equals("classic")) {
            p.put("session.timeout.ms", "6000");
        }
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "earliest");
        KafkaConsumer<byte[], byte[]> c = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            c.wakeup();
            try {
                main.join();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }));
        c.subscribe(List.of(args[2]));
        try {
            while (true) {
                ConsumerRecords<byte[], byte[]> got = c.poll(Duration.ofSeconds(1));
                StringBuilder lines = new StringBuilder();
                for (ConsumerRecord<byte[], byte[]> r : got) {
                    lines.append(r.partition()).append(' ').append(r.offset()).append('\n');
                }
                System.out.print(lines);
                System.out.flush();
                try {
                    c.commitSync();
                } catch (CommitFailedException | RebalanceInProgressException e) {
                    // Others have the partitions, or will: what is not committed is read again.
                }
            }
        } catch (WakeupException e) {
            // The end.
        } finally {
            c.close();
        }
    }
}
