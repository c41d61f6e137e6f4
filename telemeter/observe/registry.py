"""The `/metrics` page.

Metrics are declared at the top of the module that counts them and live in prometheus-client's
global registry, as its users expect.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder

disable_created_metrics()


def metrics_page(accept: str, registry: CollectorRegistry = REGISTRY) -> tuple[str, bytes]:
    """Render all metrics.

    Args:
        accept: the request's `Accept` header; it chooses between text and OpenMetrics.
        registry: whose metrics.

    Returns:
        The content type and the body.
    """
    encoder, content_type = choose_encoder(accept)
    return content_type, encoder(registry)
