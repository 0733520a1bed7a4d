"""The simulator: what a run would take at another size on another cluster, before it is paid for.

calibration.py   what logs of small runs (run.events) tell of each stage
planes.py        base + row x rows + shard x shards, fitted; what a fit leaves open
laws.py          how time, memory, bytes of a stage grow with rows and shards; logs and benchmarks
cluster.py       the machines: nodes, workers, memory, prices
forecast.py      laws on a cluster: time, cost, memory, and what does not fit
"""
