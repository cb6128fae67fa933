"""Serving of bundles: calls over HTTP → engine runs → answers.

Reading order: ``messages`` (a request and a response, without a web framework), ``routes`` (which
path means what), ``calls`` (the calls of a request → results), ``host`` (a model that loads, serves
and drains), ``endpoint`` (all of these together); then the thin shells, ``function`` for
functions-framework and ``asgi`` for uvicorn, and ``logs``.
"""
