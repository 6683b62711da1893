"""Batches over many files that finish: a plan of shards, workers that may die, one table in input order.

`plan` says what is computed and in which pieces, `folder` where it lies, `shard` computes one piece, `verbs` what is
computed of a window, `worker` and `ray_engine` spread the pieces over workers, `merge` makes the table, `summary` tells
of it, and `run` is the walk through all.
"""
