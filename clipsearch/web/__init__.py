"""The search page: server-rendered, its state in the URL, needing nothing but a Vespa endpoint."""
