"""What a laptop has instead of a cluster: servers of our own, a supervisor, and one front door."""
