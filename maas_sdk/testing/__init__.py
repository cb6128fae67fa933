"""Parts for your own tests: a tiny bundle, and a client of a model served in this process.

    from maas_sdk.testing import served_client, tiny_bundle

    with served_client(tiny_bundle(tmp_path)) as client:
        assert client.predict(np.ones((2, 4), np.float32)).shape == (2, 3)

Nothing here opens a port or starts a server.
"""

from maas_sdk.testing.bundles import tiny_bundle
from maas_sdk.testing.endpoint import EndpointTransport, served_client

__all__ = ["EndpointTransport", "served_client", "tiny_bundle"]
