"""What is logged, and a writer that never holds up the server."""
