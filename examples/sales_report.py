"""The files of `examples/sales-report`, and the figures that a right report has."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

_GOAL = re.compile(r"The sales goal of the region (\w+) .* is (\d+) euros\.")


class Mismatch(Exception):
    """The result of the run is not what the files say."""


@dataclass(frozen=True)
class Files:
    """What the scenario is made of."""

    agents: list[dict[str, Any]]
    scenario: dict[str, Any]
    csv: str
    facts: list[str]

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs of a run."""
        return {"csv": self.csv, "facts": self.facts}


def load(folder: Path) -> Files:
    """Reads the folder, and puts the coder's Python into its step."""
    scenario = json.loads((folder / "scenario.json").read_text())
    for step in scenario["steps"]:
        if "tool" in step:
            step["tool"]["arguments"]["code"] = (folder / "figures.py").read_text()
    return Files(
        agents=json.loads((folder / "agents.json").read_text()),
        scenario=scenario,
        csv=(folder / "orders.csv").read_text(),
        facts=(folder / "facts.txt").read_text().splitlines(),
    )


def expected_figures(files: Files) -> dict[str, Any]:
    """The figures, computed here with decimals, apart from the code that the coder runs."""
    regions: Counter[str] = Counter()
    months: Counter[str] = Counter()
    products: Counter[str] = Counter()
    rows = list(csv.DictReader(io.StringIO(files.csv)))
    for row in rows:
        revenue = int(Decimal(row["units"]) * Decimal(row["unit_price"]) * 100)
        regions[row["region"]] += revenue
        months[row["date"][:7]] += revenue
        products[row["product"]] += revenue
    goals = {found[1]: int(found[2]) * 100 for fact in files.facts if (found := _GOAL.fullmatch(fact))}
    return {
        "orders": len(rows),
        "revenue": _euros(regions.total()),
        "best_region": regions.most_common(1)[0][0],
        "best_month": months.most_common(1)[0][0],
        "best_product": products.most_common(1)[0][0],
        "missed": ", ".join(sorted(region for region in regions if regions[region] < goals[region])) or "none",
        "regions": {
            region: {
                "revenue": _euros(revenue),
                "goal": _euros(goals[region]),
                "reached": f"{Decimal(revenue) / goals[region] * 100:.1f}%",
            }
            for region, revenue in regions.items()
        },
    }


def check_result(result: dict[str, Any], files: Files) -> None:
    """Checks the result of a run.

    Raises:
        Mismatch: a figure differs from what the files say, the report lacks one, or the language model was never called.
    """
    made = result["result"]
    for name, value in expected_figures(files).items():
        if made["figures"].get(name) != value:
            raise Mismatch(f"the figure {name!r} is {made['figures'].get(name)!r}, and the files say {value!r}.")
        for text in _texts(value):
            if text not in made["report"]:
                raise Mismatch(f"the report lacks {text!r} ({name}).")
    if not (result["success"] and result["model_calls"] >= 2 and result["output_tokens"] > 0):
        raise Mismatch("the language model was never called; the prose cannot be its own.")
    for name in ("explanation", "comment"):
        if not made[name].strip():
            raise Mismatch(f"the language model gave no {name}; run the demo again, or use a larger model.")


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [str(value)]


def _euros(cents: int) -> str:
    return f"{Decimal(cents) / 100:,.2f}"
