"""Which worker takes a request: the candidates, the policies, and what they know of KV caches."""
