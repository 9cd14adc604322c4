"""The process that runs the tasks of agents: `python -m services.agent.worker`.

It takes tasks of every tenant from the scheduler, over two streams of their own: coordinators of runs mostly wait for their
steps, so they have many places and can never take those of the steps that they wait for. A task is done on behalf of its
creator. Nothing is kept in the process: a killed one's tasks go to another worker, which repeats what is safe to repeat and no
more.
"""
