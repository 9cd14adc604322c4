// A worker in Go: counts words, one task at a time. docs/how-to/write-a-worker.md names the rules that it keeps.
package main

import (
	"context"
	"crypto/rand"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	pb "guildmesh.dev/gen/go/guildmesh/scheduler/v1"
)

func main() {
	conn, _ := grpc.NewClient(strings.TrimPrefix(os.Getenv("GUILDMESH_URL"), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	halfClose := func(stream pb.WorkerService_WorkClient, _ *pb.WorkRequest) error { return stream.CloseSend() }
	hello, credits := &pb.WorkerHello{WorkerId: "go-" + rand.Text(), Kinds: []string{"example.word-count"}}, int32(1)
	terminated, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	run, told := (*pb.TaskCompletion)(nil), []*pb.TaskCompletion(nil) // the task at hand until its end is acknowledged; what is told of it
	work, at := (<-chan time.Time)(nil), [2]any{}                     // the work, which takes context.seconds; its task and attempt
	drain, lease, ends, beats := terminated.Done(), time.Minute, time.NewTimer(time.Hour), time.NewTicker(time.Minute)
	for ; terminated.Err() == nil || run != nil; time.Sleep(time.Second) {
		ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+os.Getenv("GUILDMESH_TOKEN"))
		stream, err := pb.NewWorkerServiceClient(conn).Work(ctx)
		heard, send, sent, open := make(chan *pb.WorkResponse), pb.WorkerService_WorkClient.Send, time.Time{}, err == nil
		go func() {
			for response := (*pb.WorkResponse)(nil); err == nil; response, err = stream.Recv() {
				heard <- response
			}
			close(heard)
		}()
		for say := (&pb.WorkRequest{Hello: hello, Credits: credits, Completions: told}); open; {
			_, say = send(stream, say), &pb.WorkRequest{} // what a broken stream loses is told again on the next
			select {
			case response, more := <-heard:
				if open = more; response.GetWelcome() != nil {
					lease = response.Welcome.LeaseDuration.AsDuration() * 4 / 5
					beats.Reset(response.Welcome.HeartbeatInterval.AsDuration())
				}
				for _, each := range response.GetLeases() {
					words, seconds := strings.Fields(each.Task.Description), each.Task.Context.GetFields()["seconds"].GetNumberValue()
					run = &pb.TaskCompletion{TaskId: each.Task.TaskId, Attempt: each.Task.Attempt, Result: structpb.NewNumberValue(float64(len(words)))}
					work, at, credits, sent, _ = time.After(time.Duration(seconds*1e9)), [2]any{run.TaskId, run.Attempt}, 0, time.Time{}, ends.Reset(lease)
				}
				for _, each := range response.GetRenewals() {
					if at == [2]any{each.TaskId, each.Attempt} && work != nil && !sent.IsZero() {
						sent, _ = time.Time{}, ends.Reset(time.Until(sent.Add(lease)))
					}
				}
				stop := slices.ContainsFunc(response.GetCancels(), func(c *pb.TaskCancel) bool { return at == [2]any{c.TaskId, c.Attempt} })
				if len(response.GetAcks())+len(response.GetRefusals()) > 0 || stop && work != nil {
					run, told, work, credits, say.Credits, _ = nil, nil, nil, 1, 1, ends.Stop()
				}
				if response.GetDrain() || response.GetRenewToken() != nil || terminated.Err() != nil && run == nil {
					send = halfClose
				}
			case <-work:
				work, told, say.Completions, _ = nil, []*pb.TaskCompletion{run}, []*pb.TaskCompletion{run}, ends.Stop()
			case <-ends.C: // no renewal came in time, by the monotonic clock: another worker may have the task by now
				run, work, credits, send = nil, nil, 1, halfClose
			case <-beats.C:
				if work != nil && sent.IsZero() {
					sent, say.Heartbeats = time.Now(), []*pb.TaskHeartbeat{{TaskId: run.TaskId, Attempt: run.Attempt}}
				}
			case <-drain:
				if drain = nil; run == nil {
					send = halfClose
				}
			}
		}
	}
}
