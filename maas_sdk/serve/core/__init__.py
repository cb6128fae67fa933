"""The pure part of the service: a request in, a response out; no sockets and no threads."""
