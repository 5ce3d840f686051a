"""An engine that keeps time instead of computing: for load tests, routing and failover."""
