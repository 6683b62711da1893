"""Batches over many files that finish: a plan of shards, workers that may die, one table in input order.

`plan` says what is computed and in which pieces, which `cut` makes, `folder` where it lies. `shard` computes one piece:
with `windows` what `verbs` say of each window, with `records` what is said along whole records. `worker` and
`ray_engine` spread the pieces over workers, `merge` makes the table, `summary` tells of it, and `run` is the walk
through all.
"""
