"""MLflow as a mirror of run directories: the truth is on disk, and it can catch up at any time.

environment.py, location.py   where the store is; nothing here imports MLflow
redaction.py                  addresses without their passwords
points.py, facts.py, state.py what a run directory says, and how much of it was mirrored
store.py, mirror.py           the MLflow side
writer.py                     the thread that mirrors while a run trains
sync.py, status.py            catching up later, and what is left to send
figures.py, ui.py             the loss figure, MLflow's own user interface
"""
