import java.io.File;
import java.nio.file.Path;
import java.util.TreeMap;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.metadata.properties.MetaProperties;
import org.apache.kafka.metadata.properties.PropertiesUtils;
import org.apache.kafka.server.common.CheckpointFile;
import org.apache.kafka.storage.internals.checkpoint.LeaderEpochCheckpointFile;
import org.apache.kafka.storage.internals.checkpoint.OffsetCheckpointFile;
import org.apache.kafka.storage.internals.checkpoint.PartitionMetadataFile;
import org.apache.kafka.storage.internals.log.LogDirFailureChannel;

/** Reads the files of a data directory that are text with the classes that Kafka reads them with: DIR PARTITION. */
public final class Checkpoints {
    public static void main(String[] args) throws Exception {
        File dir = new File(args[0]);
        File log = new File(dir, args[1]);
        for (String name : new String[] {"recovery-point-offset-checkpoint", "log-start-offset-checkpoint"}) {
            File f = new File(dir, name);
            TreeMap<String, Long> all = new TreeMap<>();
            if (f.exists()) {
                for (var e : new OffsetCheckpointFile(f, null).read().entrySet()) {
                    all.put(((TopicPartition) e.getKey()).toString(), e.getValue());
                }
            }
            System.out.println(name + "\t" + all.get(args[1]));
        }
        System.out.println("leader-epoch-checkpoint\t" + new LeaderEpochCheckpointFile(new File(log, "leader-epoch-checkpoint"), new LogDirFailureChannel(1)).read().stream().map(e -> e.epoch() + " from " + e.startOffset()).toList());
        var metadata = new PartitionMetadataFile(new File(log, "partition.metadata"), new LogDirFailureChannel(1)).read();
        System.out.println("partition.metadata\tversion " + metadata.version() + " id " + !metadata.topicId().equals(org.apache.kafka.common.Uuid.ZERO_UUID));
        MetaProperties p = new MetaProperties.Builder(PropertiesUtils.readPropertiesFile(Path.of(args[0], "meta.properties").toString())).build();
        System.out.println("meta.properties\tversion " + p.version() + " node " + p.nodeId().getAsInt() + " cluster " + p.clusterId().isPresent() + " directory " + p.directoryId().isPresent());
    }
}
