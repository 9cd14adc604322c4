// A worker in TypeScript: counts words, four tasks at a time; goes on from the count of another task, and asks for more words.
// docs/how-to/write-a-worker.md names the rules that it keeps.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import type { TaskLease__Output } from "./generated/guildmesh/scheduler/v1/TaskLease";
import type { WorkRequest } from "./generated/guildmesh/scheduler/v1/WorkRequest";
import type { WorkResponse__Output } from "./generated/guildmesh/scheduler/v1/WorkResponse";
import type { ProtoGrpcType } from "./generated/worker_service";

type About = { task_id: string; attempt: number };
type Report = Pick<WorkRequest, "completions" | "failures" | "waits">; // how an attempt ends
type Run = About & { stop: AbortController; ends?: NodeJS.Timeout; sent?: number };

const LATE = "OUT_OF_TIME";
const words = (text: string | undefined) => (text ?? "").split(/\s+/).filter(Boolean).length;

async function count(lease: TaskLease__Output, about: About, signal: AbortSignal): Promise<Report> {
  const [task, context] = [lease.task, lease.task?.context?.fields];
  await sleep((context?.["seconds"]?.numberValue ?? 0) * 1000, undefined, { signal });
  const before = lease.dependencies.find(({ name }) => name === "before")?.result?.numberValue ?? 0; // a count that this one goes on from
  const approval = lease.steps.find(({ step_id }) => step_id === "approval")?.result?.structValue; // a signal, once it was sent
  if (context?.["ask"]?.boolValue && !approval) return { waits: [{ ...about, signal: "approval", prompt: "Which words count, too?" }] };
  const total = before + words(task?.description) + words(approval?.fields?.["value"]?.stringValue);
  return { completions: [{ ...about, result: { numberValue: total } }] };
}

const folders = ["proto", "third_party/googleapis", "third_party/protovalidate"];
const includeDirs = folders.map((folder) => new URL(`../../../../${folder}`, import.meta.url).pathname);
const options = { includeDirs, keepCase: true, longs: Number, enums: String, defaults: true };
const loaded = loadSync("guildmesh/scheduler/v1/worker_service.proto", options);
const { WorkerService } = (grpc.loadPackageDefinition(loaded) as unknown as ProtoGrpcType).guildmesh.scheduler.v1;
const client = new WorkerService((process.env.GUILDMESH_URL ?? "").replace("http://", ""), grpc.credentials.createInsecure());
const hello = { worker_id: `typescript-${randomUUID()}`, kinds: ["example.word-count"] };
const runs = new Map<string, Run>(); // what runs
const told = new Map<string, Report>(); // what is not acknowledged yet
let stream: grpc.ClientDuplexStream<WorkRequest, WorkResponse__Output> | undefined; // on which everything is told
let [lease, pause, draining, beats] = [0, 100, false, setInterval(() => {}, 1e6)];
const key = (about: About) => `${about.task_id}/${about.attempt}`;
const milliseconds = (time: { seconds: number; nanos: number } | null) => (time?.seconds ?? 0) * 1e3 + (time?.nanos ?? 0) / 1e6;
const reports = (all = [...told.values()]) => ({
  completions: all.flatMap((report) => report.completions ?? []),
  failures: all.flatMap((report) => report.failures ?? []),
  waits: all.flatMap((report) => report.waits ?? []),
});
const idle = () => runs.size + told.size === 0;
const halfClose = () => (stream = void stream?.end()); // what still comes on it is heard

function leasedFrom(run: Run, moment: number): void {
  clearTimeout(run.ends); // the run is stopped before its lease ends, by the monotonic clock, and the stream that is silent left
  run.ends = setTimeout(() => (run.stop.abort(), stream?.cancel()), moment + lease * 0.8 - performance.now());
  run.sent = undefined;
}
async function start(leased: TaskLease__Output): Promise<void> {
  const about = { task_id: leased.task?.task_id ?? "", attempt: leased.task?.attempt ?? 0 };
  const run: Run = { ...about, stop: new AbortController() };
  runs.set(key(run), run);
  leasedFrom(run, performance.now());
  // The attempt's own limit, by this clock, and before the scheduler says so.
  const limit = setTimeout(() => run.stop.abort(LATE), Math.min(milliseconds(leased.remaining) - 1000, 2 ** 31 - 1));
  await count(leased, about, run.stop.signal).then((report) => told.set(key(run), report), () => {});
  const error = { reason: LATE, message: "The attempt would have passed its limit." };
  if (run.stop.signal.reason === LATE) told.set(key(run), { failures: [{ ...about, error, retryable: true }] });
  clearTimeout(limit);
  clearTimeout(run.ends);
  runs.delete(key(run));
  draining && idle() ? halfClose() : stream?.write({ ...reports(), credits: 1 }); // nothing follows on a cancelled run
}
function beat(): void {
  for (const run of runs.values()) run.sent ??= performance.now(); // of the oldest heartbeat that waits for its renewal
  stream?.write({ heartbeats: [...runs.values()].map(({ task_id, attempt }) => ({ task_id, attempt })) });
}
function hear(response: WorkResponse__Output): void {
  if (response.welcome) {
    [lease, pause] = [milliseconds(response.welcome.lease_duration), 100];
    clearInterval(beats);
    beats = setInterval(beat, milliseconds(response.welcome.heartbeat_interval));
  }
  for (const leased of response.leases) void start(leased);
  for (const run of response.renewals.map((renewal) => runs.get(key(renewal)))) if (run?.sent) leasedFrom(run, run.sent);
  for (const cancel of response.cancels) runs.get(key(cancel))?.stop.abort();
  for (const answer of [...response.acks, ...response.refusals]) told.delete(key(answer));
  if (response.drain || response.renew_token || (draining && idle())) halfClose();
}
process.once("SIGTERM", () => (draining = true) && (idle() ? halfClose() : stream?.write({ drain: true })));
for (; !draining || !idle(); pause = Math.min(pause * 2, 3000)) {
  const [file, fixed] = [process.env.GUILDMESH_TOKEN_FILE, process.env.GUILDMESH_TOKEN]; // whoever writes the file keeps it fresh
  const call = (stream = client.Work(grpc.Metadata.fromHttp2Headers({ authorization: `Bearer ${file ? readFileSync(file, "utf8").trim() : fixed}` })));
  for (const run of runs.values()) run.sent = undefined;
  call.on("data", hear).on("error", (error) => console.error(error.message));
  call.write({ hello, credits: 4 - runs.size, drain: draining, ...reports() });
  beat();
  await new Promise((resolve) => call.on("status", resolve));
  if (stream === call) stream = undefined;
  await sleep(Math.random() * pause);
}
process.exit();
