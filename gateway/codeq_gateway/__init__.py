"""REST gateway of codeq."""
