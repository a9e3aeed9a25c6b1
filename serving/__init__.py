"""Online: use cases over one index version, HTTP and gRPC in front of them, and a page.

What serves needs the extra `serve`; the settings do not, so that a machine that only builds can read them.
"""

from serving.settings import (
    AuthSettings,
    EventSettings,
    RecommendSettings,
    ServingSettings,
    TlsSettings,
    TracingSettings,
)

__all__ = ["AuthSettings", "EventSettings", "RecommendSettings", "ServingSettings", "TlsSettings", "TracingSettings"]
