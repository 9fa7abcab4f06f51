"""The service model, cut to the two operations this daemon calls.

botocore's own model of the service and its endpoint data are 1.6 MB of JSON and 12 MiB once parsed. The
files in ``data/`` hold the same facts about the two operations, the shapes they reach and the endpoints of
this one service, and nothing else. They stand first on the loader's search path; what they lack, should a
later botocore ask for it, is still found in botocore itself.

``tests/ssm_model_cut.py`` cuts them from the installed botocore (Apache-2.0); a test compares.
"""

from pathlib import Path
from typing import Final

from botocore.loaders import Loader

SERVICE: Final = "ssm"
API_VERSION: Final = "2014-11-06"
OPERATIONS: Final = ("UpdateAssociationStatus", "DescribeAssociation")
DATA: Final = Path(__file__).parent / "data"


class CutLoader(Loader):  # type: ignore[misc]  # botocore is untyped
    """botocore's loader with the cut files first."""

    def __init__(self) -> None:
        super().__init__(extra_search_paths=[str(DATA)])

    def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002  # botocore's signature
        """The one service a client is made for. botocore's own answer visits every service's directory: 20 ms."""
        return [SERVICE]

    def is_builtin_path(self, path: str) -> bool:
        """The cut files are botocore's own. Data of others would take precedence over the endpoint rules."""
        return path.startswith(str(DATA)) or bool(super().is_builtin_path(path))
