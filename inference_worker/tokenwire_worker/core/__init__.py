"""The worker's rules, free of transport, event loop and engine: plain values in and out."""
