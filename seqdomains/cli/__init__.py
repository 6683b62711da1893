"""Commands: parse, build, run. The only place where domains and pipelines meet."""
