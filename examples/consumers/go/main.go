// Prints each event of a topic as a line of JSON, with its headers; started again, it goes on where it was.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	eventsv1 "guildmesh.dev/gen/go/guildmesh/events/v1"
)

type line struct {
	Partition int32             `json:"partition"`
	Offset    int64             `json:"offset"`
	Key       string            `json:"key"`
	Headers   map[string]string `json:"headers"`
	Event     json.RawMessage   `json:"event"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(setting("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"), ",")...),
		kgo.ConsumeTopics(setting("TOPIC", "guildmesh.task-events.v1")),
		kgo.ConsumerGroup(setting("GROUP", "example-go")),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),      // what a relay gave up half-way is not there
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), // a group that is new begins at the beginning
		kgo.DisableAutoCommit(),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachError(func(topic string, partition int32, err error) { log.Printf("%s/%d: %v", topic, partition, err) })
		fetches.EachRecord(show)
		// After the work, so that nothing is passed over: what was done twice has the same ce_id.
		if err := client.CommitUncommittedOffsets(context.Background()); err != nil {
			log.Print(err)
		}
	}
}

func show(record *kgo.Record) {
	var event eventsv1.TaskEvent
	if err := proto.Unmarshal(record.Value, &event); err != nil {
		log.Fatalf("%s/%d at %d: %v", record.Topic, record.Partition, record.Offset, err)
	}
	shown := line{record.Partition, record.Offset, string(record.Key), map[string]string{}, nil}
	for _, header := range record.Headers {
		shown.Headers[header.Key] = string(header.Value)
	}
	shown.Event, _ = protojson.MarshalOptions{UseProtoNames: true}.Marshal(&event)
	text, _ := json.Marshal(shown)
	fmt.Println(string(text))
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
