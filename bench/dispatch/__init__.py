"""The benchmark `dispatch`: who decides which task starts next, measured with prototypes of each answer.

Three replicas serve workers from one PostgreSQL with the scheduler's own tables. Every prototype starts and completes tasks by
the same statements and keeps the same promises: queue limits, limits of concurrency keys, shares of tenants by slot-seconds that
count running work, priority within a tenant. What differs is who decides:

* `race`: each replica by itself, in SQL, under a lock of the queue (bench.dispatch.race);
* `owner`: for each queue one replica, from what it has in memory; it also starts the tasks and hands them on;
* `single`: one replica for all queues, which else does as `owner`;
* `grants`: one replica for all queues, which only decides; the replica that has the worker starts the task (both: `owner`);
* `today`: each replica in today's order, without limits and shares; for the plain load only.

`unlocked` is a race without its lock: it exceeds limits, which shows that the checker notices.
"""
