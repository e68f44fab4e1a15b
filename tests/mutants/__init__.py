"""Small, harmful changes of the code, each of which the tests must notice: see __main__.py, and `make mutants`."""
