"""What an order costs here, and what it costs the usual alternative. `make bench`; results in README.md."""
