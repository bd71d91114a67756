"""Routes that are treated in a way of their own."""

from __future__ import annotations

# Probes send no API key, and are not logged at info level.
HEALTH_ROUTES = frozenset({"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
METRICS_ROUTE = "/metrics"
PAGE_ROUTE = "/"
