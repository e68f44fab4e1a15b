"""What a laptop has instead of a cluster: private servers, a supervisor, and a gateway."""
