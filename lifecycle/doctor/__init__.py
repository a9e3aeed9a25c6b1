"""What is wrong with a store, a write log, a configuration or a running service, and what to do."""

from lifecycle.doctor.finding import Finding, Severity

__all__ = ["Finding", "Severity"]
