"""Agents: who they are, how they chat, and how several of them work together.

Owns the agents and scenarios (schema `agent`), the language model providers, and two processes: `python -m services.agent`, the
api (AgentService), and `python -m services.agent.worker`, which runs tasks of the kinds agent.task, agent.scenario and
agent.step. It calls scheduler, tool and memory.
"""
