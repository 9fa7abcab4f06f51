"""Cuts botocore's data files to what this daemon uses; ``python tests/ssm_model_cut.py`` writes them anew.

Facts only: the two operations with every shape they reach, and what resolves a region to its endpoint. No
documentation. A test cuts the installed botocore's files again and compares, so an upgrade is noticed.
"""

import json
from pathlib import Path
from typing import Any, Final

from botocore.loaders import Loader

from ssm_status_reporter.ssm.model import API_VERSION, DATA, OPERATIONS, SERVICE

WORDS: Final = frozenset({"documentation", "description"})
"""Members that explain; dropped wherever they hold text."""


def cut_files() -> dict[str, Any]:
    """Each shipped file's path below the data directory, and what it holds."""
    whole = Loader()
    return {
        f"{SERVICE}/{API_VERSION}/service-2.json": cut_model(
            whole.load_service_model(SERVICE, "service-2", API_VERSION)
        ),
        f"{SERVICE}/{API_VERSION}/endpoint-rule-set-1.json": without_words(
            whole.load_service_model(SERVICE, "endpoint-rule-set-1", API_VERSION)
        ),
        "endpoints.json": cut_endpoints(whole.load_data("endpoints")),
        "partitions.json": without_words(whole.load_data("partitions")),
    }


def cut_model(model: dict[str, Any]) -> dict[str, Any]:
    """The service model with only our operations and the shapes they reach."""
    operations = {name: model["operations"][name] for name in OPERATIONS}
    reached: set[str] = set()
    ahead = [shape for operation in operations.values() for shape in named_shapes(operation)]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead.extend(named_shapes(model["shapes"][name]))
    shapes = {name: model["shapes"][name] for name in sorted(reached)}
    cut = {"version": model["version"], "metadata": model["metadata"], "operations": operations, "shapes": shapes}
    stripped: dict[str, Any] = without_words(cut)
    return stripped


def cut_endpoints(endpoints: dict[str, Any]) -> dict[str, Any]:
    """The endpoint data with no service but ours."""
    partitions = [
        {**partition, "services": {name: data for name, data in partition["services"].items() if name == SERVICE}}
        for partition in endpoints["partitions"]
    ]
    stripped: dict[str, Any] = without_words({**endpoints, "partitions": partitions})
    return stripped


def named_shapes(node: Any) -> list[str]:
    """Every shape a part of the model refers to."""
    if isinstance(node, list):
        return [name for item in node for name in named_shapes(item)]
    if not isinstance(node, dict):
        return []
    found = [node["shape"]] if isinstance(node.get("shape"), str) else []
    return found + [name for item in node.values() for name in named_shapes(item)]


def without_words(node: Any) -> Any:
    """The same without explanatory text."""
    if isinstance(node, list):
        return [without_words(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: without_words(value) for key, value in node.items() if not (key in WORDS and isinstance(value, str))
    }


def main() -> None:
    """Write the files into the package."""
    for name, content in cut_files().items():
        path = Path(DATA) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
