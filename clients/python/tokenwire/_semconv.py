"""Every span attribute that the client writes.

Names follow the OpenTelemetry RPC conventions as of 1.44 (release candidate), as the services' do.
"""

RPC_SYSTEM_NAME = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS_CODE = "rpc.response.status_code"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

GRPC = "grpc"
