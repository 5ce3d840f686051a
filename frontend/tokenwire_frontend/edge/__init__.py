"""The doors: protobuf or JSON in and out, and nothing decided here.

grpc        the public contract's services
openai      OpenAI's interface over HTTP
kserve      the Open Inference Protocol over gRPC
callers     who calls, by whichever door
turnstile   lets streams write in turns
"""
