"""Command line of codeq."""
