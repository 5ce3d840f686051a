"""Traces and metrics: their names, what makes them, and where they go.

semconv      every name
registry     every span and metric that bears them
providers    set-up of a process: OTLP, sampling, what a scrape reads
tracing      spans and trace context
metrics      instruments
exposition   metrics in the Prometheus and OpenMetrics formats
loop_lag     how late the event loop is
"""
