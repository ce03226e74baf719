"""Profiles of a running server, made on request."""
