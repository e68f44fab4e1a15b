"""How much one client may take: `Limits` counts its requests and its connections, `Proxies` know its address."""
