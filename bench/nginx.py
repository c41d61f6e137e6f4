"""Debian's nginx, twice: an upstream that keeps nothing, and a plain reverse proxy before it."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, Final

from demo.stack import HOST, Program, Ready, Stack, fetch

if TYPE_CHECKING:
    from pathlib import Path

#: Debian keeps it where only root looks.
PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
#: The largest body that is passed in memory.
_LARGEST: Final = "16m"

_CONFIGURATION: Final = """\
worker_processes 1;
pid {folder}/pid;
{user}
events {{
    worker_connections 1024;
}}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size {largest};
    client_body_buffer_size {largest};
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}}}
"""

# The mirror has nginx read the whole body, as any upstream does; a mere `return` would answer as
# soon as the headers are there. Then an image is asked for in a way that it does not answer (405),
# and that is turned into "thank you".
_UPSTREAM: Final = """\
    server {{
        listen {listen};
        location / {{
            mirror /read;
            empty_gif;
            error_page 405 =204 @taken;
        }}
        location = /read {{
            internal;
            return 204;
        }}
        location @taken {{
            return 204;
        }}
        location = /status {{
            stub_status;
        }}
    }}
"""

_PROXY: Final = """\
    upstream null {{
        server {upstream};
        keepalive 64;
    }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://null;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
        location = /status {{
            stub_status;
        }}
    }}
"""


def _start(stack: Stack, name: str, servers: str, listen: str) -> Program:
    folder = stack.folder / f"{name}.nginx"
    folder.mkdir()
    # nginx would give its workers to a user who may not enter the stack's folder.
    user = "user root;" if os.getuid() == 0 else ""
    text = _CONFIGURATION.format(folder=folder, user=user, largest=_LARGEST, servers=servers)
    configuration: Path = stack.write(f"{name}.conf", text)
    command = shutil.which("nginx", path=PATH) or "nginx"
    argv = [command, "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
    url = f"http://{listen}"
    return stack.start(name, [*argv, "-g", "daemon off;"], url, Ready("/status"))


def start_upstream(stack: Stack) -> Program:
    """Start an upstream that reads every request to its end, answers 204 and forgets it."""
    listen = f"{HOST}:{stack.free_port()}"
    return _start(stack, "upstream", _UPSTREAM.format(listen=listen), listen)


def start_proxy(stack: Stack, name: str, upstream: Program) -> Program:
    """Start a reverse proxy that passes every request to the upstream as it came."""
    listen = f"{HOST}:{stack.free_port()}"
    servers = _PROXY.format(listen=listen, upstream=upstream.url.partition("://")[2])
    return _start(stack, name, servers, listen)


def requests_taken(upstream: Program) -> int:
    """Return how many requests the upstream has had, this question among them."""
    status = fetch(f"{upstream.url}/status").text
    counts = re.search(r"^ \d+ \d+ (\d+) $", status, re.MULTILINE)
    assert counts is not None, status
    return int(counts[1])
