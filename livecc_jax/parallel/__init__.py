"""Device mesh, sharding rules, sharded batches, several processes, and peak rates of chips."""
