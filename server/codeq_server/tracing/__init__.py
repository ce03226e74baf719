"""Spans of calls and tasks, for OpenTelemetry."""
