package dev.guildmesh.examples;

import com.google.protobuf.util.JsonFormat;
import guildmesh.events.v1.TaskEventOuterClass.TaskEvent;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Properties;
import java.util.StringJoiner;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Prints each event of a topic as a line of JSON, with its headers; started again, it goes on where it was. */
public final class Consume {
  private static final JsonFormat.Printer JSON =
      JsonFormat.printer().preservingProtoFieldNames().omittingInsignificantWhitespace();

  public static void main(String[] args) throws Exception {
    var properties = new Properties();
    properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, setting("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"));
    properties.put(ConsumerConfig.GROUP_ID_CONFIG, setting("GROUP", "example-java"));
    // What a relay gave up half-way is not there; a group that is new begins at the beginning.
    properties.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
    properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
    var reader = Thread.currentThread();
    try (var consumer = new KafkaConsumer<>(properties, new StringDeserializer(), new ByteArrayDeserializer())) {
      Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(consumer, reader)));
      consumer.subscribe(List.of(setting("TOPIC", "guildmesh.task-events.v1")));
      while (true) {
        for (var record : consumer.poll(Duration.ofSeconds(1))) {
          System.out.println(lineOf(record));
        }
        System.out.flush();
        // After the work, so that nothing is passed over: what was done twice has the same ce_id.
        consumer.commitSync();
      }
    } catch (WakeupException stopped) {
      // It was told to stop.
    }
  }

  private static String lineOf(ConsumerRecord<String, byte[]> record) throws Exception {
    var headers = new StringJoiner(",", "{", "}");
    for (var header : record.headers()) {
      headers.add(quoted(header.key()) + ":" + quoted(new String(header.value(), StandardCharsets.UTF_8)));
    }
    return "{\"partition\":%d,\"offset\":%d,\"key\":%s,\"headers\":%s,\"event\":%s}"
        .formatted(record.partition(), record.offset(), quoted(record.key()), headers, JSON.print(TaskEvent.parseFrom(record.value())));
  }

  private static String quoted(String text) throws Exception {
    return JSON.print(com.google.protobuf.Value.newBuilder().setStringValue(text).build());
  }

  private static void stop(KafkaConsumer<?, ?> consumer, Thread reader) {
    consumer.wakeup();
    try {
      reader.join(10_000);
    } catch (InterruptedException ended) {
      Thread.currentThread().interrupt();
    }
  }

  private static String setting(String name, String otherwise) {
    var value = System.getenv(name);
    return value == null || value.isEmpty() ? otherwise : value;
  }
}
