"""The HTTP service: a model behind routes, batches of similar length, limits, metrics, and a page to try it.

A request goes one way: connection.py (slow clients) → gate.py (who may, how much) → *_routes.py (routes, forms)
→ jobs.py (tokens of it) → batching.py (queue, one thread) → backend.py (the model), and its answer back through
jobs.py.
"""
