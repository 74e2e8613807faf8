"""Feeders: ways into the index. Each turns a source into operations for one dispatcher."""
