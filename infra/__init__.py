"""The ground floor: dataset store, shard files, file systems, runner, progress."""
