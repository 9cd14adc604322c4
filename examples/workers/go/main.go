// A worker in Go: counts words, four at a time, each in a goroutine. docs/how-to/write-a-worker.md names the rules that it keeps.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
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
	terminated, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	var slots sync.WaitGroup
	for range 4 {
		slots.Go(func() { work(terminated, pb.NewWorkerServiceClient(conn)) })
	}
	slots.Wait()
}

func work(terminated context.Context, client pb.WorkerServiceClient) { // one task at a time, on a stream of its own
	id, welcome, credits, run, told := "go-"+rand.Text(), &pb.WorkerWelcome{}, int32(1), (*pb.TaskCompletion)(nil), []*pb.TaskCompletion(nil)
	for done, ends := (<-chan time.Time)(nil), (<-chan time.Time)(nil); terminated.Err() == nil || run != nil; time.Sleep(time.Second) {
		token, _ := os.ReadFile(os.Getenv("GUILDMESH_TOKEN_FILE")) // for each stream anew: whoever keeps it fresh keeps us connected
		bearer := metadata.Pairs("authorization", "Bearer "+cmp.Or(strings.TrimSpace(string(token)), os.Getenv("GUILDMESH_TOKEN")))
		ctx, hangUp := context.WithCancel(metadata.NewOutgoingContext(context.Background(), bearer))
		stream, err := client.Work(ctx)
		heard, sent, open, closing := make(chan *pb.WorkResponse), time.Time{}, err == nil, false
		go func() {
			for response := (*pb.WorkResponse)(nil); err == nil; response, err = stream.Recv() {
				heard <- response
			}
			close(heard)
		}()
		for say := (&pb.WorkRequest{Hello: &pb.WorkerHello{WorkerId: id, Kinds: []string{"example.word-count"}}, Credits: credits, Completions: told}); open; {
			if closing = closing || terminated.Err() != nil && run == nil; closing {
				_ = stream.CloseSend() // what still comes is heard
			} else {
				_, say = stream.Send(say), &pb.WorkRequest{} // what is lost here is told again on the next stream
			}
			select {
			case response, more := <-heard:
				welcome, open, closing = cmp.Or(response.GetWelcome(), welcome), more, closing || response.GetDrain() || response.GetRenewToken() != nil
				for _, each := range response.GetLeases() {
					seconds, words := each.Task.Context.GetFields()["seconds"].GetNumberValue(), float64(len(strings.Fields(each.Task.Description)))
					run, sent, credits = &pb.TaskCompletion{TaskId: each.Task.TaskId, Attempt: each.Task.Attempt, Result: structpb.NewNumberValue(words)}, time.Time{}, 0
					done, ends = time.After(time.Duration(seconds*1e9)), time.After(welcome.LeaseDuration.AsDuration()*4/5)
				}
				if slices.ContainsFunc(response.GetRenewals(), func(r *pb.TaskRenewal) bool { return done != nil && r.TaskId == run.TaskId && r.Attempt == run.Attempt }) && !sent.IsZero() {
					sent, ends = time.Time{}, time.After(time.Until(sent.Add(welcome.LeaseDuration.AsDuration()*4/5)))
				}
				if len(response.GetAcks())+len(response.GetRefusals()) > 0 || slices.ContainsFunc(response.GetCancels(), func(c *pb.TaskCancel) bool { return done != nil && c.TaskId == run.TaskId && c.Attempt == run.Attempt }) {
					run, told, done, ends, credits, say.Credits = nil, nil, nil, nil, 1, 1
				}
			case <-done:
				told, say.Completions, done, ends = []*pb.TaskCompletion{run}, []*pb.TaskCompletion{run}, nil, nil
			case <-ends: // no renewal came in time, by the monotonic clock: another worker may have the task by now
				run, done, ends, credits, open = nil, nil, nil, 1, false
			case <-time.After(cmp.Or(welcome.HeartbeatInterval.AsDuration(), time.Second)): // an idle one looks here whether to stop
				if done != nil && sent.IsZero() {
					sent, say.Heartbeats = time.Now(), []*pb.TaskHeartbeat{{TaskId: run.TaskId, Attempt: run.Attempt}}
				}
			}
		}
		hangUp()
	}
}
