"""A scenario in which three agents work together, for tests."""

from __future__ import annotations

from google.protobuf import json_format
from guildmesh.agent.v1 import agent_pb2

CODE = """
goal = next(int(word) for memory in arguments["memories"] for word in memory["content"].split() if word.isdigit())
total = sum(arguments["numbers"])
print("summed", len(arguments["numbers"]))
result = {"total": total, "reached": total >= goal}
"""

# The researcher remembers and finds, the coder computes with what was found, the analyst writes about what was computed.
TEAMWORK = json_format.ParseDict(
    {
        "scenario_id": "teamwork",
        "steps": [
            {"step_id": "keep", "agent_id": "researcher", "remember": {"contents": ["${inputs.facts}"]}},
            {
                "step_id": "find",
                "agent_id": "researcher",
                "needs": ["keep"],
                "recall": {"query": "What is the goal?", "limit": 1},
            },
            {
                "step_id": "sum",
                "agent_id": "coder",
                "needs": ["find"],
                "tool": {
                    "tool_name": "python",
                    "arguments": {
                        "code": CODE,
                        "input": {"numbers": "${inputs.numbers}", "memories": "${steps.find.memories}"},
                    },
                },
            },
            {
                "step_id": "write",
                "agent_id": "analyst",
                "needs": ["sum"],
                "model": {"prompt": "The total is ${steps.sum.result.total}. Comment on it."},
            },
        ],
        "result": {"total": "${steps.sum.result.total}", "text": "${steps.sum.result.total}: ${steps.write.text}"},
    },
    agent_pb2.Scenario(),
)
FACTS = ["The goal of the sales team is 100 apples.", "The office opens at nine.", "Bananas are yellow."]
