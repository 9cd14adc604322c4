"""What the coder runs in the sandbox: the figures of the orders, held against the goals that the researcher found."""

import csv
import io
import re
from collections import Counter
from typing import Any


def figures(given: dict[str, Any]) -> dict[str, Any]:
    """The figures; `given` has the orders as CSV text and the memories that were found."""
    goals = {}
    for memory in given["memories"]:
        found = re.search(r"sales goal of the region (\w+) .* is (\d+) euros", memory["content"])
        if found:
            goals[found[1]] = int(found[2]) * 100

    # In cents, so that sums are exact.
    regions: Counter[str] = Counter()
    months: Counter[str] = Counter()
    products: Counter[str] = Counter()
    orders = list(csv.DictReader(io.StringIO(given["csv"])))
    for row in orders:
        cents = int(row["units"]) * round(float(row["unit_price"]) * 100)
        regions[row["region"]] += cents
        months[row["date"][:7]] += cents
        products[row["product"]] += cents
    print(f"read {len(orders)} orders of {len(regions)} regions")

    table = ["| region | revenue in euros | goal | reached |", "|---|---:|---:|---:|"]
    by_region = {}
    for region, cents in regions.most_common():
        row = {"revenue": euros(cents), "goal": euros(goals[region]), "reached": f"{cents / goals[region]:.1%}"}
        by_region[region] = row
        table.append(f"| {region} | {row['revenue']} | {row['goal']} | {row['reached']} |")
    return {
        "orders": len(orders),
        "revenue": euros(sum(regions.values())),
        "regions": by_region,
        "best_region": regions.most_common(1)[0][0],
        "best_month": months.most_common(1)[0][0],
        "best_product": products.most_common(1)[0][0],
        "missed": ", ".join(sorted(region for region in regions if regions[region] < goals[region])) or "none",
        "table": "\n".join(table),
    }


def euros(cents: int) -> str:
    """An amount as people write it."""
    return f"{cents / 100:,.2f}"


# The sandbox gives `arguments`, and takes what is in `result`.
result = figures(arguments)  # type: ignore[name-defined]  # noqa: F821
