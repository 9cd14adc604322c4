#!/usr/bin/env bash
# Prints the headers and the key of each event of a topic with Kafka's own console consumer; started again, it goes on where it was.
# The value is protobuf, which a terminal cannot show: what happened, to what and when stands in the headers.
set -euo pipefail

# bin/kafka-console-consumer.sh of Apache Kafka 4.1; packages call it kafka-console-consumer.
consumer="${KAFKA_CONSOLE_CONSUMER:-$(command -v kafka-console-consumer.sh kafka-console-consumer | head -n 1)}"
if [[ -z "$consumer" ]]; then
  echo "no kafka-console-consumer on PATH; name it in KAFKA_CONSOLE_CONSUMER" >&2
  exit 1
fi
exec "$consumer" \
  --bootstrap-server "${KAFKA_BOOTSTRAP_SERVERS:-127.0.0.1:9092}" \
  --topic "${TOPIC:-guildmesh.task-events.v1}" --group "${GROUP:-example-console}" \
  --from-beginning --isolation-level read_committed \
  --property print.partition=true --property print.offset=true \
  --property print.headers=true --property print.key=true --property print.value=false
