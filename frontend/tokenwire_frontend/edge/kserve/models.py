"""Metadata and configurations of models, as Triton tells them."""

from __future__ import annotations

from tokenwire_frontend.edge.kserve.inputs import INPUTS
from tokenwire_frontend.edge.kserve.outputs import MODEL_VERSION, OUTPUTS
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2 as pb
from tokenwire_frontend.edge.kserve.tensors import BYTES

PLATFORM = "tokenwire"

REQUIRED = ("text_input",)
"""Inputs that every request has."""


def metadata(name: str) -> pb.ModelMetadataResponse:
    """Returns which tensors a model takes and returns."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=name,
        versions=[MODEL_VERSION],
        platform=PLATFORM,
        inputs=[
            tensor(name=key, datatype=each.datatype, shape=[-1 if each.many else 1])
            for key, each in INPUTS.items()
        ],
        outputs=[
            tensor(name=key, datatype=each.datatype, shape=each.shape)
            for key, each in OUTPUTS.items()
        ],
    )


def config(name: str) -> pb.ModelConfig:
    """Returns a model's configuration: decoupled, without batches."""
    return pb.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=0,
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=True),
        input=[
            pb.ModelInput(
                name=key,
                data_type=_type(each.datatype),
                dims=[-1 if each.many else 1],
                optional=key not in REQUIRED,
            )
            for key, each in INPUTS.items()
        ],
        output=[
            pb.ModelOutput(name=key, data_type=_type(each.datatype), dims=each.shape)
            for key, each in OUTPUTS.items()
        ],
    )


def _type(datatype: str) -> pb.DataType.ValueType:
    """Returns a datatype as configurations name it."""
    return pb.DataType.Value("TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}")
