"""The simulator: what a run would take at another size on another cluster, before it is paid for.

calibration.py   what logs of small runs (run.events) tell of each stage
laws.py          how time, memory and bytes of a stage grow with the rows; from logs and benchmarks
cluster.py       the machines: nodes, workers, memory, prices
forecast.py      laws on a cluster: time, cost, memory, and what does not fit
"""
