"""The services of `tokenwire.frontend.v1`.

generation_servicer     Generate, StreamGenerate, Session, Attach, CancelGeneration
session                 one Session, its messages (`session_messages`), what it has to write
(`outbox`) and what it passes on to other frontends (`session_relay`)
received, from_proto    requests as the core has them
keeping                 what a request says of how its generation is kept
to_proto, wire          deltas and answers as messages, and as bytes where that is cheaper
owners, relay           which frontend has a generation, and calls that are passed on to it
request_cancel          cancelling by request id, at all frontends
tokenization_servicer   Tokenize, Detokenize, RenderChat; streams are read ahead (`read_ahead`)
model_servicer          models and workers
activity_servicer       what goes on, as `activity` sees it
"""
