"""The IAM policy that administrators attach: what the daemon calls, and nothing else."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.ssm.codes import Meaning, Operation, hint

POLICY: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "config/iam-policy.json").read_text("utf-8")
)


def test_it_allows_the_operations_used_and_no_other() -> None:
    """Nobody grants this daemon more than it uses, and what it uses is not denied."""
    (statement,) = POLICY["Statement"]
    assert statement["Effect"] == "Allow"
    assert statement["Action"] == sorted(f"ssm:{operation}" for operation in Operation)


@pytest.mark.parametrize("node", ["i-0123456789abcdef0", "mi-0123456789abcdef0"])
def test_it_covers_the_resources_that_a_denial_names(node: str) -> None:
    """What the hint of a permission hold tells to allow is what this policy allows."""
    text = hint(Meaning.PERMISSION, Operation.UPDATE, Association(node, "My-Doc"))
    (statement,) = POLICY["Statement"]
    kinds = {resource.rpartition(":")[2].partition("/")[0] for resource in statement["Resource"]}
    assert kinds == {"document", "instance", "managed-instance"}
    assert {word.partition("/")[0] for word in text.replace(",", "").split() if "/" in word} <= kinds


def test_it_is_not_for_everything() -> None:
    """No resource is a bare `*`: the three kinds that the operations are checked against, and no other."""
    (statement,) = POLICY["Statement"]
    assert all(resource.count(":") == 5 for resource in statement["Resource"])
