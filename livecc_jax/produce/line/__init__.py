"""The line: the stages of data production over many sources, with many workers, restartable.

Sources are divided into shards by a hash of their id. A *phase* runs some stages over every shard; a
*unit* is what a phase finishes at a time: one source, one clip, or a fixed batch of clips for a model.
Every finished unit is a line in the log of its shard, so a run that was killed does only what is
missing. Units are known by a digest of what goes into them, and phases by a digest of their parameters:
a changed parameter makes the results out of date that depend on it, and no others.

- `workspace` knows the files, `phases` the order of the stages, `shard` runs a phase over one shard.
- `worker` runs shards in child processes under limits of time and memory; a unit that breaks them
  becomes a rejection.
- `local` spreads the shards over such processes on this machine, `beam` over a cluster.
- `run` puts it all together, and `joining` writes the results in the order of the sources.
"""
