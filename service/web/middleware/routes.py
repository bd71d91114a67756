"""Routes with special treatment in middleware."""

from __future__ import annotations

# Probes send no API key and are logged at debug level.
HEALTH_ROUTES = frozenset({"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
METRICS_ROUTE = "/metrics"
PAGE_ROUTE = "/"
