"""Server of codeq."""
