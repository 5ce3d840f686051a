"""/requests/{request_id}: where the time of one recent request went, as `tokenwire trace` shows it.

The answer is the message that ActivityService.GetRecord returns, in protobuf's JSON form.
"""

from __future__ import annotations

from google.protobuf import json_format

from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc.activity import Processes, record_of

PREFIX = "/requests/"

ONE = PREFIX + "{request_id}"


async def one(processes: Processes, request_id: str) -> bytes:
    """Returns the record of one of the caller's tenant's requests as JSON.

    Raises:
        ServiceError: no process remembers one of this id.
    """
    record = await record_of(processes, request_id, callers.current().seen_tenant)
    told: str = json_format.MessageToJson(
        record,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=None,
    )
    return told.encode()
