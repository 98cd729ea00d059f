"""Processes that train one contestant, a block of steps at a time.

Only the standard library is imported here: a worker may run in another environment than its parent.
"""
