"""The wire formats between client and service, as bytes; nothing here sends them.

Reading order: ``frames`` (our msgpack dialect, many calls in one body), ``tfserving`` (TensorFlow
Serving's REST v1 in JSON), ``tfserving_metadata`` (a model's
metadata). Every function here is pure: bytes → value, value → bytes.
"""
