"""What agents and other senders say to a daemon in the reactor of the tests."""

from __future__ import annotations

import trustme

from tests.running import Reply, ask

from .wire import UPLOAD_HEADERS, token_in, write_body, write_headers


async def authorize(
    server_url: str, cluster: str, token: str, trusted: trustme.CA | None = None
) -> str:
    """Exchange a cluster's token for a JWT."""
    url = f"{server_url}/authorize?id={cluster}"
    headers = {"Authorization": f"Bearer {token}"}
    answer = await ask(url, method="POST", headers=headers, trusted=trusted)
    assert answer.status == 200, answer.text
    return token_in(answer.body)


async def upload(
    server_url: str, jwt: str, body: bytes, trusted: trustme.CA | None = None
) -> Reply:
    """Upload a body that is compressed already."""
    headers = {**UPLOAD_HEADERS, "Authorization": f"Bearer {jwt}"}
    url = f"{server_url}/upload"
    return await ask(url, method="POST", headers=headers, body=body, trusted=trusted)


async def write(server_url: str, cluster: str, secret: str) -> Reply:
    """Write one sample of a cluster, by remote write 1.0."""
    return await ask(
        f"{server_url}/metrics/v1/receive",
        method="POST",
        headers=write_headers(cluster, secret),
        body=write_body(cluster),
    )
