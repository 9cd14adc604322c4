// A worker in Go: counts words, four tasks at a time, each in a goroutine; goes on from the count of another task, and asks for more words. docs/how-to/write-a-worker.md names the rules that it keeps.
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

func count(lease *pb.TaskLease) *pb.WorkRequest { // how the attempt ends
	task, words, asks := lease.Task, len(strings.Fields(lease.Task.Description)), lease.Task.Context.GetFields()["ask"].GetBoolValue()
	for _, each := range lease.Dependencies { // what the task waited for, by name: a count that this one goes on from
		if each.Name == "before" {
			words += int(each.Result.GetNumberValue())
		}
	}
	for _, step := range lease.Steps { // a signal is among the steps once it was sent
		if step.StepId == "approval" {
			asks, words = false, words+len(strings.Fields(step.Result.GetStructValue().GetFields()["value"].GetStringValue()))
		}
	}
	if asks { // ends the attempt; the next one comes with the signal
		return &pb.WorkRequest{Waits: []*pb.TaskWait{{TaskId: task.TaskId, Attempt: task.Attempt, Signal: "approval", Prompt: "Which words count, too?"}}}
	}
	return &pb.WorkRequest{Completions: []*pb.TaskCompletion{{TaskId: task.TaskId, Attempt: task.Attempt, Result: structpb.NewNumberValue(float64(words))}}}
}

func late(task *pb.Task) *pb.WorkRequest {
	why := &pb.TaskError{Reason: "OUT_OF_TIME", Message: "The attempt would have passed its limit."}
	return &pb.WorkRequest{Failures: []*pb.TaskFailure{{TaskId: task.TaskId, Attempt: task.Attempt, Error: why, Retryable: true}}}
}

func work(terminated context.Context, client pb.WorkerServiceClient) { // one task at a time, on a stream of its own
	id, welcome, credits, run, end, told := "go-"+rand.Text(), &pb.WorkerWelcome{}, int32(1), (*pb.Task)(nil), (*pb.WorkRequest)(nil), (*pb.WorkRequest)(nil)
	var done, limit, ends <-chan time.Time
	for terminated.Err() == nil || run != nil {
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
		for say := (&pb.WorkRequest{Hello: &pb.WorkerHello{WorkerId: id, Kinds: []string{"example.word-count"}}, Credits: credits, Completions: told.GetCompletions(), Failures: told.GetFailures(), Waits: told.GetWaits()}); open; {
			if closing = closing || terminated.Err() != nil && run == nil; closing {
				_ = stream.CloseSend() // what still comes is heard
			} else {
				_, say = stream.Send(say), &pb.WorkRequest{} // what is lost here is told again on the next stream
			}
			select {
			case response, more := <-heard:
				welcome, open, closing = cmp.Or(response.GetWelcome(), welcome), more, closing || response.GetDrain() || response.GetRenewToken() != nil
				for _, each := range response.GetLeases() {
					seconds := each.Task.Context.GetFields()["seconds"].GetNumberValue()
					run, end, sent, credits = each.Task, count(each), time.Time{}, 0
					done, ends = time.After(time.Duration(seconds*1e9)), time.After(welcome.LeaseDuration.AsDuration()*4/5)
					limit = time.After(each.Remaining.AsDuration() - time.Second) // by this clock, and before the scheduler says so
				}
				if slices.ContainsFunc(response.GetRenewals(), func(r *pb.TaskRenewal) bool { return done != nil && r.TaskId == run.TaskId && r.Attempt == run.Attempt }) && !sent.IsZero() {
					sent, ends = time.Time{}, time.After(time.Until(sent.Add(welcome.LeaseDuration.AsDuration()*4/5)))
				}
				if len(response.GetAcks())+len(response.GetRefusals()) > 0 || slices.ContainsFunc(response.GetCancels(), func(c *pb.TaskCancel) bool { return done != nil && c.TaskId == run.TaskId && c.Attempt == run.Attempt }) {
					run, told, done, limit, ends, credits, say.Credits = nil, nil, nil, nil, nil, 1, 1
				}
			case <-done:
				told, say, done, limit, ends = end, end, nil, nil, nil
			case <-limit:
				told, say, done, limit, ends = late(run), late(run), nil, nil, nil
			case <-ends: // no renewal came in time, by the monotonic clock: another worker may have the task by now
				run, done, limit, ends, credits, open = nil, nil, nil, nil, 1, false
			case <-time.After(cmp.Or(welcome.HeartbeatInterval.AsDuration(), time.Second)): // an idle one looks here whether to stop
				if done != nil && sent.IsZero() {
					sent, say.Heartbeats = time.Now(), []*pb.TaskHeartbeat{{TaskId: run.TaskId, Attempt: run.Attempt}}
				}
			}
		}
		hangUp()
		time.Sleep(time.Second)
	}
}
