"""Python SDK of codeq."""
