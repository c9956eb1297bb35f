import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Does the same work at whatever broker it is given and prints what came of it, a line for each thing:
 * section, what, outcome, with tabs between. Nothing in a line may differ between two brokers that are alike.
 */
public final class Scripted {
    /** Timestamps begin here, so that no run differs from another. */
    static final long BEGIN = 1_700_000_000_000L;

    static String bootstrap;
    static Admin admin;
    static String section;

    interface Work {
        Object run() throws Exception;
    }

    interface Section {
        void run() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        if (args.length == 4 && args[1].equals("--until-done")) {
            produceThroughCrashes(args[2], Integer.parseInt(args[3]));
            return;
        }
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "request.timeout.ms", "20000"));
        section("codecs", Scripted::codecs);
        section("content", Scripted::content);
        section("timestamps", Scripted::timestamps);
        section("acks", Scripted::acks);
        section("sizes", Scripted::sizes);
        section("positions", Scripted::positions);
        section("auto-create", Scripted::autoCreate);
        section("create-topics", Scripted::createTopics);
        section("describe-topics", Scripted::describeTopics);
        section("create-partitions", Scripted::createPartitions);
        section("configs", Scripted::configs);
        section("delete-records", Scripted::deleteRecords);
        section("list-offsets", Scripted::listOffsets);
        section("cluster", Scripted::cluster);
        section("producers", Scripted::producers);
        section("delete-topics", Scripted::deleteTopics);
        admin.close();
        System.out.println("end\tend\tend");
    }

    static void section(String name, Section s) {
        section = name;
        try {
            s.run();
        } catch (Exception e) {
            say("ended early", outcome(e) + ": " + e.getMessage());
        }
    }

    static void say(String what, Object outcome) {
        System.out.println(section + "\t" + what + "\t" + String.valueOf(outcome).replace('\n', ' ').replace('\t', ' '));
    }

    /** Prints what some work gives, or the class of what it throws. */
    static void attempt(String what, Work w) {
        Object got;
        try {
            got = w.run();
        } catch (Exception e) {
            got = outcome(e);
        }
        say(what, got);
    }

    static String outcome(Throwable e) {
        while (e instanceof ExecutionException && e.getCause() != null) {
            e = e.getCause();
        }
        // A KafkaException of no class of its own says why in its cause.
        if (e.getClass() == KafkaException.class && e.getCause() != null) {
            e = e.getCause();
        }
        return e.getClass().getSimpleName();
    }

    static KafkaProducer<byte[], byte[]> producer(String... settings) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("delivery.timeout.ms", "30000");
        p.put("request.timeout.ms", "20000");
        for (int i = 0; i < settings.length; i += 2) {
            p.put(settings[i], settings[i + 1]);
        }
        return new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static KafkaConsumer<byte[], byte[]> consumer(String... settings) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("auto.offset.reset", "earliest");
        p.put("enable.auto.commit", "false");
        p.put("fetch.max.wait.ms", "50");
        for (int i = 0; i < settings.length; i += 2) {
            p.put(settings[i], settings[i + 1]);
        }
        return new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static byte[] bytes(String s) {
        return s == null ? null : s.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] b) {
        return b == null ? "null" : '"' + (b.length > 40 ? b.length + " bytes" : new String(b, StandardCharsets.UTF_8)) + '"';
    }

    static String text(ConsumerRecord<byte[], byte[]> r) {
        StringBuilder b = new StringBuilder();
        b.append(r.offset()).append(" epoch ").append(r.leaderEpoch().orElse(-1)).append(' ').append(r.timestampType());
        if (r.timestampType().name.equals("CreateTime")) {
            b.append(' ').append(r.timestamp());
        }
        b.append(" key ").append(text(r.key())).append(" value ").append(text(r.value()));
        b.append(" sizes ").append(r.serializedKeySize()).append(' ').append(r.serializedValueSize());
        for (Header h : r.headers()) {
            b.append(" header ").append(h.key()).append('=').append(text(h.value()));
        }
        return b.toString();
    }

    static TopicPartition tp(String topic, int partition) {
        return new TopicPartition(topic, partition);
    }

    /** Makes a topic, and waits until each of its partitions answers as its leader. */
    static void topic(String name, int partitions, String... settings) throws Exception {
        Map<String, String> configs = new TreeMap<>();
        for (int i = 0; i < settings.length; i += 2) {
            configs.put(settings[i], settings[i + 1]);
        }
        admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1).configs(configs))).all().get();
        appear(name, partitions);
    }

    static void appear(String name, int partitions) throws Exception {
        Map<TopicPartition, OffsetSpec> ask = new TreeMap<>(Collections.reverseOrder((a, b) -> a.toString().compareTo(b.toString())));
        for (int i = 0; i < partitions; i++) {
            ask.put(tp(name, i), OffsetSpec.latest());
        }
        until(name + " has leaders", () -> admin.listOffsets(ask).all().get() != null);
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    static void until(String what, Condition c) throws Exception {
        Exception last = null;
        for (long end = System.nanoTime() + 20_000_000_000L; System.nanoTime() < end; Thread.sleep(10)) {
            try {
                if (c.holds()) {
                    return;
                }
            } catch (Exception e) {
                last = e;
            }
        }
        throw new IllegalStateException("does not come about: " + what, last);
    }

    /** Reads partitions from their beginning to the end that they have now. */
    static List<ConsumerRecord<byte[], byte[]>> readAll(TopicPartition... of) {
        try (KafkaConsumer<byte[], byte[]> c = consumer()) {
            c.assign(Arrays.asList(of));
            c.seekToBeginning(Arrays.asList(of));
            Map<TopicPartition, Long> ends = c.endOffsets(Arrays.asList(of));
            List<ConsumerRecord<byte[], byte[]>> all = new ArrayList<>();
            for (long end = System.nanoTime() + 20_000_000_000L; System.nanoTime() < end; ) {
                if (ends.entrySet().stream().allMatch(e -> c.position(e.getKey()) >= e.getValue())) {
                    break;
                }
                c.poll(Duration.ofMillis(200)).forEach(all::add);
            }
            all.sort((a, b) -> a.partition() != b.partition() ? a.partition() - b.partition() : Long.compare(a.offset(), b.offset()));
            return all;
        }
    }

    static void sayAll(String what, TopicPartition... of) {
        for (ConsumerRecord<byte[], byte[]> r : readAll(of)) {
            say(what + " " + r.partition(), text(r));
        }
    }

    static String digest(List<ConsumerRecord<byte[], byte[]>> all) throws Exception {
        MessageDigest d = MessageDigest.getInstance("SHA-256");
        for (ConsumerRecord<byte[], byte[]> r : all) {
            d.update((r.partition() + " " + text(r) + "\n").getBytes(StandardCharsets.UTF_8));
            d.update(r.value() == null ? new byte[0] : r.value());
        }
        return all.size() + " records, " + HexFormat.of().formatHex(d.digest(), 0, 8);
    }

    static void codecs() throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            String topic = "j-codec-" + codec;
            topic(topic, 2);
            try (KafkaProducer<byte[], byte[]> p = producer("compression.type", codec, "linger.ms", "20")) {
                for (int i = 0; i < 500; i++) {
                    byte[] value = bytes(("value " + i + " of a batch that can be made smaller ").repeat(1 + i % 7));
                    p.send(new ProducerRecord<>(topic, i % 2, BEGIN + i, bytes("key " + i), value));
                }
            }
            attempt(codec, () -> digest(readAll(tp(topic, 0), tp(topic, 1))));
        }
        // A topic's own codec has the broker compress anew.
        for (String codec : List.of("uncompressed", "gzip", "snappy", "lz4", "zstd")) {
            String topic = "j-recoded-" + codec;
            topic(topic, 1, "compression.type", codec);
            try (KafkaProducer<byte[], byte[]> p = producer("compression.type", "lz4", "linger.ms", "20")) {
                for (int i = 0; i < 50; i++) {
                    p.send(new ProducerRecord<>(topic, 0, BEGIN + i, null, bytes("value " + i)));
                }
            }
            attempt("topic of " + codec, () -> digest(readAll(tp(topic, 0))));
        }
    }

    static void content() throws Exception {
        topic("j-content", 1);
        try (KafkaProducer<byte[], byte[]> p = producer()) {
            List<ProducerRecord<byte[], byte[]>> all = new ArrayList<>();
            for (String key : new String[] {null, "", "k", "\u00e4\u20ac\ud83d\ude80"}) {
                for (String value : new String[] {null, "", "v"}) {
                    all.add(new ProducerRecord<>("j-content", 0, BEGIN + all.size(), bytes(key), bytes(value)));
                }
            }
            ProducerRecord<byte[], byte[]> r = new ProducerRecord<>("j-content", 0, BEGIN, bytes("headers"), bytes("v"));
            r.headers().add("twice", bytes("1")).add("twice", bytes("2")).add("twice", null).add("", bytes("of no name")).add("empty", new byte[0]).add("null", null);
            all.add(r);
            ProducerRecord<byte[], byte[]> many = new ProducerRecord<>("j-content", 0, BEGIN, bytes("many"), bytes(null));
            for (int i = 0; i < 200; i++) {
                many.headers().add("h" + i % 3, bytes("" + i));
            }
            all.add(many);
            for (ProducerRecord<byte[], byte[]> x : all) {
                attempt("written", () -> {
                    RecordMetadata m = p.send(x).get();
                    return m.partition() + " " + m.offset() + " " + m.timestamp() + " " + m.serializedKeySize() + " " + m.serializedValueSize();
                });
            }
        }
        sayAll("read", tp("j-content", 0));
    }

    static void timestamps() throws Exception {
        topic("j-create-time", 1);
        topic("j-append-time", 1, "message.timestamp.type", "LogAppendTime");
        topic("j-bounded-time", 1, "message.timestamp.before.max.ms", "60000", "message.timestamp.after.max.ms", "60000");
        long now = System.currentTimeMillis();
        try (KafkaProducer<byte[], byte[]> p = producer()) {
            for (long ts : new long[] {0, 1, BEGIN, BEGIN - 5, 4_000_000_000_000L}) {
                attempt("create time " + ts, () -> p.send(new ProducerRecord<>("j-create-time", 0, ts, null, bytes("v"))).get().timestamp());
                attempt("append time " + ts, () -> {
                    RecordMetadata m = p.send(new ProducerRecord<>("j-append-time", 0, ts, null, bytes("v"))).get();
                    return m.hasTimestamp() && Math.abs(m.timestamp() - now) < 600_000 ? "now" : m.timestamp();
                });
            }
            attempt("too old", () -> p.send(new ProducerRecord<>("j-bounded-time", 0, now - 3_600_000, null, bytes("v"))).get().offset());
            attempt("too new", () -> p.send(new ProducerRecord<>("j-bounded-time", 0, now + 3_600_000, null, bytes("v"))).get().offset());
            attempt("within bounds", () -> p.send(new ProducerRecord<>("j-bounded-time", 0, now, null, bytes("v"))).get().offset());
        }
        sayAll("create time", tp("j-create-time", 0));
        sayAll("append time", tp("j-append-time", 0));
        attempt("append times are now", () -> readAll(tp("j-append-time", 0)).stream().allMatch(r -> Math.abs(r.timestamp() - now) < 600_000));
    }

    static void acks() throws Exception {
        for (String acks : List.of("0", "1", "all")) {
            for (String idempotent : List.of("false", "true")) {
                if (idempotent.equals("true") && !acks.equals("all")) {
                    continue;
                }
                String topic = "j-acks-" + acks + "-" + idempotent;
                topic(topic, 1);
                try (KafkaProducer<byte[], byte[]> p = producer("acks", acks, "enable.idempotence", idempotent)) {
                    for (int i = 0; i < 3; i++) {
                        int n = i;
                        attempt("acks " + acks + " idempotent " + idempotent, () -> {
                            RecordMetadata m = p.send(new ProducerRecord<>(topic, 0, BEGIN + n, null, bytes("v" + n))).get();
                            return m.hasOffset() + " " + m.offset();
                        });
                    }
                }
                until("records without an answer", () -> admin.listOffsets(Map.of(tp(topic, 0), OffsetSpec.latest())).all().get().get(tp(topic, 0)).offset() == 3);
                sayAll(acks + " " + idempotent, tp(topic, 0));
            }
        }
    }

    static void sizes() throws Exception {
        topic("j-large", 1);
        topic("j-small", 1, "max.message.bytes", "1000");
        topic("j-huge", 1, "max.message.bytes", "20000000");
        byte[] noise = new byte[5_000_000];
        new java.util.Random(1).nextBytes(noise);
        try (KafkaProducer<byte[], byte[]> p = producer("max.request.size", "30000000", "buffer.memory", "67108864")) {
            for (int size : new int[] {900_000, 1_048_500, 1_100_000, 5_000_000}) {
                for (String t : List.of("j-large", "j-huge")) {
                    attempt(t + " " + size, () -> p.send(new ProducerRecord<>(t, 0, BEGIN, null, Arrays.copyOf(noise, size))).get().offset());
                }
            }
            for (int size : new int[] {900, 1000, 1100}) {
                attempt("j-small " + size, () -> p.send(new ProducerRecord<>("j-small", 0, BEGIN, null, Arrays.copyOf(noise, size))).get().offset());
            }
        }
        try (KafkaProducer<byte[], byte[]> p = producer()) {
            attempt("more than the client sends", () -> p.send(new ProducerRecord<>("j-huge", 0, BEGIN, null, noise)).get().offset());
        }
        attempt("read large", () -> digest(readAll(tp("j-large", 0))));
        attempt("read huge", () -> digest(readAll(tp("j-huge", 0))));
        try (KafkaConsumer<byte[], byte[]> c = consumer("max.partition.fetch.bytes", "1000", "fetch.max.bytes", "1000")) {
            c.assign(List.of(tp("j-huge", 0)));
            attempt("one at a time", () -> {
                List<String> sizes = new ArrayList<>();
                for (long end = System.nanoTime() + 20_000_000_000L; sizes.size() < 4 && System.nanoTime() < end; ) {
                    ConsumerRecords<byte[], byte[]> got = c.poll(Duration.ofSeconds(1));
                    got.forEach(r -> sizes.add(r.offset() + ":" + r.serializedValueSize()));
                }
                return sizes;
            });
        }
    }

    static void positions() throws Exception {
        topic("j-times", 3);
        try (KafkaProducer<byte[], byte[]> p = producer("enable.idempotence", "false")) {
            for (int i = 0; i < 100; i++) {
                p.send(new ProducerRecord<>("j-times", i % 2, BEGIN + 10L * i, bytes("" + i), bytes("v"))).get();
            }
            // Not in the order of time.
            for (long ts : new long[] {5000, 4000, 6000, 6000, 1}) {
                p.send(new ProducerRecord<>("j-times", 0, BEGIN + ts, null, bytes("late"))).get();
            }
        }
        List<TopicPartition> all = List.of(tp("j-times", 0), tp("j-times", 1), tp("j-times", 2));
        try (KafkaConsumer<byte[], byte[]> c = consumer("max.poll.records", "7")) {
            c.assign(all);
            for (long at : new long[] {0, BEGIN, BEGIN + 5, BEGIN + 500, BEGIN + 995, BEGIN + 4500, BEGIN + 6000, BEGIN + 6001}) {
                for (TopicPartition t : all) {
                    attempt("offset for time " + (at - BEGIN) + " in " + t.partition(), () -> {
                        OffsetAndTimestamp o = c.offsetsForTimes(Map.of(t, at)).get(t);
                        return o == null ? "none" : o.offset() + " " + o.timestamp() + " epoch " + o.leaderEpoch().orElse(-1);
                    });
                }
            }
            attempt("beginnings", () -> sorted(c.beginningOffsets(all)));
            attempt("ends", () -> sorted(c.endOffsets(all)));
            c.seekToEnd(all);
            for (TopicPartition t : all) {
                attempt("position at the end of " + t.partition(), () -> c.position(t));
            }
            c.seekToBeginning(all);
            for (TopicPartition t : all) {
                attempt("position at the beginning of " + t.partition(), () -> c.position(t));
            }
            attempt("a poll's records", () -> {
                c.assign(List.of(tp("j-times", 1)));
                c.seek(tp("j-times", 1), 40);
                List<Long> offsets = new ArrayList<>();
                for (long end = System.nanoTime() + 10_000_000_000L; offsets.size() < 10 && System.nanoTime() < end; ) {
                    c.poll(Duration.ofMillis(200)).forEach(r -> offsets.add(r.offset()));
                }
                return offsets;
            });
            attempt("lag", () -> c.currentLag(tp("j-times", 1)).orElse(-1));
            attempt("paused", () -> {
                c.pause(List.of(tp("j-times", 1)));
                c.seek(tp("j-times", 1), 0);
                int n = c.poll(Duration.ofMillis(200)).count();
                c.resume(List.of(tp("j-times", 1)));
                return n;
            });
            attempt("partitions", () -> {
                List<String> found = new ArrayList<>();
                c.partitionsFor("j-times").forEach(i -> found.add(i.partition() + " leader " + (i.leader() != null) + " replicas " + i.replicas().length + " isr " + i.inSyncReplicas().length));
                Collections.sort(found);
                return found;
            });
            attempt("listed topics", () -> {
                Set<String> mine = new TreeSet<>(c.listTopics().keySet());
                mine.removeIf(t -> !t.startsWith("j-"));
                return mine;
            });
            attempt("a partition that is none", () -> c.endOffsets(List.of(tp("j-times", 7)), Duration.ofSeconds(2)));
        }
        try (KafkaConsumer<byte[], byte[]> c = consumer("auto.offset.reset", "none")) {
            c.assign(List.of(tp("j-times", 0)));
            attempt("no position", () -> c.poll(Duration.ofSeconds(2)).count());
            c.seek(tp("j-times", 0), 1000);
            attempt("beyond the end", () -> {
                for (long end = System.nanoTime() + 10_000_000_000L; System.nanoTime() < end; ) {
                    c.poll(Duration.ofMillis(200));
                }
                return "nothing";
            });
        }
        for (String reset : List.of("earliest", "latest")) {
            try (KafkaConsumer<byte[], byte[]> c = consumer("auto.offset.reset", reset)) {
                TopicPartition t = tp("j-times", 0);
                c.assign(List.of(t));
                c.seek(t, 1000);
                attempt("reset to " + reset, () -> {
                    for (long end = System.nanoTime() + 10_000_000_000L; c.position(t) == 1000 && System.nanoTime() < end; ) {
                        c.poll(Duration.ofMillis(100));
                    }
                    return reset.equals("latest") ? c.position(t) : c.position(t) < 1000;
                });
            }
        }
    }

    static Object sorted(Map<TopicPartition, ?> m) {
        Map<String, Object> s = new TreeMap<>();
        m.forEach((k, v) -> s.put(k.toString(), v));
        return s;
    }

    static void autoCreate() throws Exception {
        try (KafkaProducer<byte[], byte[]> p = producer()) {
            attempt("producing to a new topic", () -> p.send(new ProducerRecord<>("j-auto", null, BEGIN, null, bytes("v"))).get().offset());
            attempt("to an invalid name", () -> p.send(new ProducerRecord<>("j auto!", bytes("v"))).get().offset());
            attempt("to a partition that is none", () -> {
                try (KafkaProducer<byte[], byte[]> q = producer("max.block.ms", "2000")) {
                    return q.send(new ProducerRecord<>("j-auto", 99, null, bytes("v"))).get().offset();
                }
            });
        }
        attempt("its partitions", () -> admin.describeTopics(List.of("j-auto")).allTopicNames().get().get("j-auto").partitions().size());
        sayAll("read", tp("j-auto", 0));
        try (KafkaConsumer<byte[], byte[]> c = consumer("allow.auto.create.topics", "false")) {
            attempt("consuming an unknown topic", () -> c.partitionsFor("j-unknown", Duration.ofSeconds(2)));
        }
        attempt("which is still unknown", () -> admin.describeTopics(List.of("j-unknown")).allTopicNames().get());
    }

    static void createTopics() throws Exception {
        List<NewTopic> all = new ArrayList<>(List.of(
            new NewTopic("j-made", 3, (short) 1).configs(Map.of("retention.ms", "1000000")),
            new NewTopic("j-times", 1, (short) 1),
            new NewTopic("j bad", 1, (short) 1),
            new NewTopic("", 1, (short) 1),
            new NewTopic(".", 1, (short) 1),
            new NewTopic("x".repeat(250), 1, (short) 1),
            new NewTopic("j-replicas", 1, (short) 3),
            new NewTopic("j-replicas-0", 1, (short) 0),
            new NewTopic("j-partitions-0", 0, (short) 1),
            new NewTopic("j-partitions-neg", -5, (short) 1),
            new NewTopic("j-config", 1, (short) 1).configs(Map.of("retention.ms", "often")),
            new NewTopic("j-config-2", 1, (short) 1).configs(Map.of("no.such.setting", "1")),
            new NewTopic("j-assigned", Map.of(0, List.of(1), 1, List.of(1))),
            new NewTopic("j-assigned-2", Map.of(0, List.of(99))),
            new NewTopic("j-assigned-3", Map.of(1, List.of(1))),
            new NewTopic("j-assigned-4", Map.of(0, List.of(1, 1))),
            new NewTopic("j-defaults", java.util.Optional.empty(), java.util.Optional.empty())));
        for (boolean only : new boolean[] {true, false}) {
            for (NewTopic t : all) {
                CreateTopicsResult r = admin.createTopics(List.of(t), new CreateTopicsOptions().validateOnly(only));
                String name = t.name().length() > 100 ? "a long name" : t.name();
                attempt((only ? "only validated " : "made ") + name, () -> {
                    r.all().get();
                    TreeSet<String> set = new TreeSet<>();
                    r.config(t.name()).get().entries().stream().filter(e -> !e.isDefault()).forEach(e -> set.add(e.name() + "=" + e.value() + " " + e.source()));
                    return r.numPartitions(t.name()).get() + " partitions, " + r.replicationFactor(t.name()).get() + " replicas, " + set
                        + (only ? "" : ", id " + !r.topicId(t.name()).get().equals(Uuid.ZERO_UUID));
                });
            }
        }
        appear("j-made", 3);
        appear("j-assigned", 2);
    }

    static void describeTopics() throws Exception {
        for (String t : List.of("j-made", "j-assigned", "j-nothing", "j bad")) {
            attempt(t, () -> described(admin.describeTopics(List.of(t)).allTopicNames().get().get(t)));
        }
        attempt("by id", () -> {
            Uuid id = admin.describeTopics(List.of("j-made")).allTopicNames().get().get("j-made").topicId();
            return described(admin.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds().get().get(id));
        });
        Uuid none = new Uuid(1, 2);
        attempt("by an unknown id", () -> described(admin.describeTopics(TopicCollection.ofTopicIds(List.of(none))).allTopicIds().get().get(none)));
        attempt("listed", () -> {
            Set<String> mine = new TreeSet<>();
            admin.listTopics(new ListTopicsOptions().listInternal(true)).listings().get().forEach(l -> mine.add(l.name() + (l.isInternal() ? " internal" : "")));
            mine.removeIf(t -> !t.startsWith("j-"));
            return mine;
        });
    }

    static String described(TopicDescription d) {
        StringBuilder b = new StringBuilder(d.name() + " internal " + d.isInternal());
        d.partitions().forEach(p -> b.append("; ").append(p.partition()).append(" leader ").append(p.leader().id())
            .append(" replicas ").append(p.replicas().stream().map(n -> n.id()).toList()).append(" isr ").append(p.isr().stream().map(n -> n.id()).toList())
            .append(" elr ").append(p.elr()).append(" last elr ").append(p.lastKnownElr()));
        return b + " operations " + (d.authorizedOperations() == null ? "null" : d.authorizedOperations().toString());
    }

    static void createPartitions() throws Exception {
        for (int n : new int[] {5, 5, 2, 0}) {
            attempt("to " + n, () -> admin.createPartitions(Map.of("j-made", NewPartitions.increaseTo(n))).all().get());
        }
        attempt("of an unknown topic", () -> admin.createPartitions(Map.of("j-nothing", NewPartitions.increaseTo(2))).all().get());
        attempt("assigned", () -> admin.createPartitions(Map.of("j-made", NewPartitions.increaseTo(6, List.of(List.of(1))))).all().get());
        attempt("badly assigned", () -> admin.createPartitions(Map.of("j-made", NewPartitions.increaseTo(7, List.of(List.of(55))))).all().get());
        attempt("only validated", () -> admin.createPartitions(Map.of("j-made", NewPartitions.increaseTo(9)), new CreatePartitionsOptions().validateOnly(true)).all().get());
        appear("j-made", 6);
        attempt("then", () -> admin.describeTopics(List.of("j-made")).allTopicNames().get().get("j-made").partitions().size());
    }

    static void configs() throws Exception {
        ConfigResource made = new ConfigResource(ConfigResource.Type.TOPIC, "j-made");
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, "1");
        describe("described ", made, false);
        alter("set", made, "retention.ms", "2000000", AlterConfigOp.OpType.SET);
        alter("set to nonsense", made, "retention.ms", "never", AlterConfigOp.OpType.SET);
        alter("set what there is not", made, "no.such", "1", AlterConfigOp.OpType.SET);
        alter("append", made, "cleanup.policy", "delete", AlterConfigOp.OpType.APPEND);
        alter("append to no list", made, "retention.ms", "1", AlterConfigOp.OpType.APPEND);
        alter("subtract", made, "cleanup.policy", "compact", AlterConfigOp.OpType.SUBTRACT);
        alter("set twice", made, "max.message.bytes", "5000", AlterConfigOp.OpType.SET);
        alter("delete", made, "max.message.bytes", "", AlterConfigOp.OpType.DELETE);
        alter("delete what is not set", made, "segment.bytes", "", AlterConfigOp.OpType.DELETE);
        alter("of an unknown topic", new ConfigResource(ConfigResource.Type.TOPIC, "j-nothing"), "retention.ms", "1", AlterConfigOp.OpType.SET);
        alter("of a broker", broker, "log.retention.ms", "700000000", AlterConfigOp.OpType.SET);
        alter("of a broker, read-only", broker, "node.id", "4", AlterConfigOp.OpType.SET);
        alter("of another broker", new ConfigResource(ConfigResource.Type.BROKER, "77"), "log.retention.ms", "1", AlterConfigOp.OpType.SET);
        until("the changes", () -> admin.describeConfigs(List.of(made)).all().get().get(made).get("retention.ms").value().equals("2000000")
            && "700000000".equals(admin.describeConfigs(List.of(broker)).all().get().get(broker).get("log.retention.ms").value()));
        describe("then ", made, true);
        attempt("then of the broker", () -> entry(admin.describeConfigs(List.of(broker)).all().get().get(broker).get("log.retention.ms")));
        alter("of a broker, deleted", broker, "log.retention.ms", "", AlterConfigOp.OpType.DELETE);
        describe("of nothing ", new ConfigResource(ConfigResource.Type.TOPIC, "j-nothing"), false);
        describe("of no topic ", new ConfigResource(ConfigResource.Type.TOPIC, ""), false);
    }

    static void alter(String what, ConfigResource of, String name, String value, AlterConfigOp.OpType op) {
        attempt(what, () -> admin.incrementalAlterConfigs(Map.of(of, List.of(new AlterConfigOp(new ConfigEntry(name, value), op))), new AlterConfigsOptions().timeoutMs(of.name().equals("77") ? 3000 : 20000)).all().get());
    }

    static void describe(String what, ConfigResource of, boolean onlySet) {
        try {
            List<ConfigEntry> all = new ArrayList<>(admin.describeConfigs(List.of(of)).all().get().get(of).entries());
            all.sort((a, b) -> a.name().compareTo(b.name()));
            all.removeIf(e -> onlySet && e.isDefault());
            for (ConfigEntry e : all) {
                say(what + e.name(), entry(e));
            }
        } catch (Exception e) {
            say(what, outcome(e));
        }
    }

    static String entry(ConfigEntry e) {
        return e == null ? "none" : e.value() + " " + e.source() + " " + e.type() + (e.isReadOnly() ? " read-only" : "") + (e.isSensitive() ? " sensitive" : "");
    }

    static void deleteRecords() throws Exception {
        topic("j-deleted", 2);
        try (KafkaProducer<byte[], byte[]> p = producer()) {
            for (int i = 0; i < 20; i++) {
                p.send(new ProducerRecord<>("j-deleted", 0, BEGIN + i, null, bytes("v" + i))).get();
            }
        }
        for (long before : new long[] {5, 3, 100, -2, -1}) {
            attempt("before " + before, () -> admin.deleteRecords(Map.of(tp("j-deleted", 0), RecordsToDelete.beforeOffset(before))).all().get() == null
                ? admin.deleteRecords(Map.of(tp("j-deleted", 0), RecordsToDelete.beforeOffset(0))).lowWatermarks().get(tp("j-deleted", 0)).get().lowWatermark() : "");
            if (before == 100) {
                sayAll("left", tp("j-deleted", 0));
            }
        }
        attempt("of an empty partition", () -> admin.deleteRecords(Map.of(tp("j-deleted", 1), RecordsToDelete.beforeOffset(-1))).lowWatermarks().get(tp("j-deleted", 1)).get().lowWatermark());
        attempt("of a partition that is none", () -> admin.deleteRecords(Map.of(tp("j-deleted", 9), RecordsToDelete.beforeOffset(1)), new DeleteRecordsOptions().timeoutMs(3000)).all().get());
        try (KafkaConsumer<byte[], byte[]> c = consumer()) {
            attempt("beginning", () -> sorted(c.beginningOffsets(List.of(tp("j-deleted", 0)))));
            attempt("end", () -> sorted(c.endOffsets(List.of(tp("j-deleted", 0)))));
        }
    }

    static void listOffsets() throws Exception {
        Map<String, OffsetSpec> specs = new TreeMap<>(Map.of(
            "earliest", OffsetSpec.earliest(), "latest", OffsetSpec.latest(), "max timestamp", OffsetSpec.maxTimestamp(),
            "for timestamp", OffsetSpec.forTimestamp(BEGIN + 333), "for a late timestamp", OffsetSpec.forTimestamp(BEGIN * 2),
            "earliest local", OffsetSpec.earliestLocal(), "latest tiered", OffsetSpec.latestTiered(), "earliest pending upload", OffsetSpec.earliestPendingUpload()));
        for (Map.Entry<String, OffsetSpec> s : specs.entrySet()) {
            for (TopicPartition t : List.of(tp("j-times", 0), tp("j-times", 1), tp("j-times", 2), tp("j-deleted", 0))) {
                attempt(s.getKey() + " of " + t, () -> {
                    ListOffsetsResult.ListOffsetsResultInfo i = admin.listOffsets(Map.of(t, s.getValue())).all().get().get(t);
                    return i.offset() + " " + i.timestamp() + " epoch " + i.leaderEpoch().orElse(-1);
                });
            }
        }
        attempt("of an unknown topic", () -> admin.listOffsets(Map.of(tp("j-nothing", 0), OffsetSpec.latest()), new ListOffsetsOptions().timeoutMs(3000)).all().get());
    }

    static void cluster() throws Exception {
        DescribeClusterResult r = admin.describeCluster(new DescribeClusterOptions().includeAuthorizedOperations(true));
        attempt("nodes", () -> r.nodes().get().stream().map(n -> n.id() + " " + n.host() + " rack " + n.rack() + " fenced " + n.isFenced()).toList());
        attempt("controller", () -> r.controller().get().id());
        attempt("cluster id", () -> r.clusterId().get().length());
        attempt("operations", () -> new TreeSet<>(r.authorizedOperations().get()));
        attempt("log dirs", () -> {
            List<String> found = new ArrayList<>();
            for (LogDirDescription d : admin.describeLogDirs(List.of(1)).allDescriptions().get().get(1).values()) {
                found.add("error " + d.error() + " total " + (d.totalBytes().orElse(-1) > 0) + " usable " + (d.usableBytes().orElse(-1) > 0) + " cordoned " + d.isCordoned());
                d.replicaInfos().forEach((t, i) -> {
                    if (List.of("j-times", "j-large", "j-made").contains(t.topic())) {
                        found.add(t + " holds " + i.size() + " lag " + i.offsetLag() + " future " + i.isFuture());
                    }
                });
            }
            Collections.sort(found);
            return found;
        });
        attempt("log dirs of a broker that is none", () -> admin.describeLogDirs(List.of(77), new DescribeLogDirsOptions().timeoutMs(3000)).allDescriptions().get());
        FeatureMetadata f = admin.describeFeatures().featureMetadata().get();
        for (Map.Entry<String, FinalizedVersionRange> e : new TreeMap<>(f.finalizedFeatures()).entrySet()) {
            say("finalized " + e.getKey(), e.getValue());
        }
        for (Map.Entry<String, SupportedVersionRange> e : new TreeMap<>(f.supportedFeatures()).entrySet()) {
            say("supported " + e.getKey(), e.getValue());
        }
        attempt("features have an epoch", () -> f.finalizedFeaturesEpoch().isPresent());
    }

    static void producers() throws Exception {
        topic("j-producers", 1);
        TopicPartition t = tp("j-producers", 0);
        attempt("none", () -> admin.describeProducers(List.of(t)).partitionResult(t).get().activeProducers());
        try (KafkaProducer<byte[], byte[]> p = producer(); KafkaProducer<byte[], byte[]> q = producer("enable.idempotence", "false")) {
            for (int i = 0; i < 7; i++) {
                p.send(new ProducerRecord<>("j-producers", 0, BEGIN, null, bytes("v"))).get();
                q.send(new ProducerRecord<>("j-producers", 0, BEGIN, null, bytes("v"))).get();
            }
            attempt("one", () -> admin.describeProducers(List.of(t)).partitionResult(t).get().activeProducers().stream()
                .map(s -> "id " + (s.producerId() >= 0) + " epoch " + s.producerEpoch() + " sequence " + s.lastSequence()
                    + " coordinator " + s.coordinatorEpoch() + " transaction " + s.currentTransactionStartOffset()).toList());
        }
        attempt("of a topic that is none", () -> admin.describeProducers(List.of(tp("j-nothing", 0)), new DescribeProducersOptions().timeoutMs(3000)).all().get());
    }

    static void deleteTopics() throws Exception {
        Uuid id = admin.describeTopics(List.of("j-assigned")).allTopicNames().get().get("j-assigned").topicId();
        attempt("by name", () -> admin.deleteTopics(List.of("j-made")).all().get());
        attempt("by id", () -> admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all().get());
        attempt("an unknown one", () -> admin.deleteTopics(List.of("j-nothing")).all().get());
        attempt("an unknown id", () -> admin.deleteTopics(TopicCollection.ofTopicIds(List.of(new Uuid(1, 2)))).all().get());
        until("they are gone", () -> {
            Set<String> names = admin.listTopics().names().get();
            return !names.contains("j-made") && !names.contains("j-assigned");
        });
        attempt("then", () -> admin.describeTopics(List.of("j-made")).allTopicNames().get());
        topic("j-made", 1);
        attempt("made again it is empty", () -> admin.listOffsets(Map.of(tp("j-made", 0), OffsetSpec.latest())).all().get().get(tp("j-made", 0)).offset());
    }

    /** Writes records with an idempotent producer, whatever becomes of the broker, and tells of each acknowledgement. */
    static void produceThroughCrashes(String topic, int records) throws Exception {
        try (KafkaProducer<byte[], byte[]> p = producer("linger.ms", "1", "batch.size", "200", "delivery.timeout.ms", "90000", "reconnect.backoff.max.ms", "200")) {
            for (int i = 0; i < records; i++) {
                int n = i;
                p.send(new ProducerRecord<>(topic, i % 2, BEGIN + i, null, bytes("" + i)), (m, e) -> {
                    synchronized (Scripted.class) {
                        System.out.println(e == null ? "acked\t" + n + "\t" + m.partition() + "\t" + m.offset() : "failed\t" + n + "\t" + outcome(e) + "\t0");
                    }
                });
            }
        }
        System.out.println("end\t0\t0\t0");
    }
}
