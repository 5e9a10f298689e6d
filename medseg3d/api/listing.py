"""What there is to choose from, as rows of a table."""

from typing import Any

from medseg3d.networks import NETWORKS


def network_rows() -> list[dict[str, Any]]:
    """Name, title, year, paper, dimensions, extra outputs and parameters of every network.

    The parameters are those of the published configuration; a run's are in ``medseg3d info``.
    """
    return [
        {
            "name": name,
            "title": facts["title"],
            "year": facts["year"],
            "paper": facts["paper"],
            "dimensions": facts["dims"],
            "extra outputs": facts.get("outputs"),
            "parameters": facts["parameters"],
        }
        for name, facts in ((name, NETWORKS.facts(name)) for name in NETWORKS)
    ]
