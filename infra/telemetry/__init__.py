"""What a run tells of itself while it runs: events, and who listens to them.

    run, stages, shards -> events.Told -> JSON lines, Prometheus metrics, OpenTelemetry traces, page

An event is a flat, JSON-able mapping. Whoever listens is called with each one, in order, in the
process that drives the run; what it makes of them is its own affair.
"""
