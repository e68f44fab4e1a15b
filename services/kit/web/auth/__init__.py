"""Who sends a request, and what they may do: `Guard` lets a request in, `rules` say what a route asks for."""
