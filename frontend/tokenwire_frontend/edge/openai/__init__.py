"""The OpenAI-compatible HTTP door: JSON in and out, nothing decided.

    server        the port: connections, TLS, drain
    routes        what is served where; identity and errors of every request
    call          one request: its span, its names
    identity      who it is from
    body          a request's body, read within bounds
    fields        its members, each read once and by its path
    options       sampling, stopping, output and guides, which all requests have
    messages      a chat's messages and tools
    generations   the generations of one request, opened and closed together
    whole         a whole answer
    stream        a streamed answer: server-sent events
    chat          /v1/chat/completions
    completions   /v1/completions
    responses     /v1/responses, as `response_request` reads them
    models        /v1/models
    page          /, the page to try it, whose files are in static/
    records       /requests/{request_id}: where a recent request's time went
    logprobs      log probabilities in both forms that the interface has
    answers       what answers have in common
    errors        errors in OpenAI's form, by the names that its fields have

docs/openai.md says field by field what is supported.
"""
