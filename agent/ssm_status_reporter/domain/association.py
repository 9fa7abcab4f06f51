"""The association: an SSM document, applied to a managed node.

Associations that ``UpdateAssociationStatus`` serves are those created with the legacy InstanceId
parameter; their key is the pair (instance id, document name) and nothing else. botocore checks neither
pattern, so both are checked here, before anything is stored.

Source: botocore's service model ssm-2014-11-06, shapes InstanceId and DocumentARN.
"""

import re
from dataclasses import dataclass
from typing import Final

INSTANCE_ID: Final = re.compile(r"i-(?:\w{8}|\w{17})|mi-\w{17}", re.ASCII)
"""A managed node: an EC2 instance ``i-…`` or a hybrid machine ``mi-…``; to be matched in full."""

DOCUMENT: Final = re.compile(r"[a-zA-Z0-9_\-.:/]{3,128}", re.ASCII)
"""An SSM document's name or ARN; to be matched in full."""


@dataclass(frozen=True, slots=True, order=True)
class Association:
    """What a status belongs to. Equal keys are the same association."""

    instance_id: str
    document: str

    def __str__(self) -> str:
        return f"{self.document} on {self.instance_id}"
