"""What a step costs on this machine, in time and bytes: optimizers take turns on the same tensors.

`sets` and `model` say on what, `contestants` who, `turns` takes the times, `memory` counts the
bytes, `measure` does both for one contestant, `book` keeps what was measured, `ratios` is the
statistics, `tables` and `figure` show it, `command` ties them together.
"""
