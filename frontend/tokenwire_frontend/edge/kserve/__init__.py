"""The Open Inference Protocol v2 over gRPC: the door for clients of Triton and KServe.

    servicer    the RPCs
    stream      ModelStreamInfer: any number of requests on one stream
    inference   one request: what it asks for, and its errors under its own names
    inputs      which input tensors and parameters there are, and what they mean
    sampling    the JSON of sampling parameters that Triton's vLLM backend takes
    outputs     which output tensors there are, and responses from what is new of a generation
    tensors     values in tensors
    models      metadata and configurations of models

What a generation is, and what becomes of it, is `generation`'s, as for every other door.
"""
