"""Logs events, with a writer that never holds up the server."""
