"""What talks to people and sockets: commentary on one source, many watched sources, sinks, latency."""
