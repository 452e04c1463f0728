"""Servers of a test's own: redis-server and mongod with any options, and a TLS terminator."""

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import redis
from live import free_port
from pymongo.errors import PyMongoError
from waiting import LIMIT_S, block_until

from chatlab.local.binaries import Name, environment, find_program
from chatlab.settings import load_settings

MONGOD_OPTIONS = (
    "--bind_ip 127.0.0.1 --nounixsocket --replSet rs0 --wiredTigerCacheSizeGB 0.25 --oplogSize 16 "
    "--setParameter diagnosticDataCollectionEnabled=false --setParameter enableTestCommands=1"
)


def _program(name: Name) -> str:
    return find_program(name, load_settings(mongo_url=None, redis_url=None)).path


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """Run a program until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment(), stdout=output, stderr=output)
    try:
        yield
    finally:
        process.kill()
        process.wait(LIMIT_S)


def is_up(look: Callable[[], object]) -> bool:
    """Return whether a server answers at all."""
    try:
        look()
    except redis.ConnectionError as error:
        return isinstance(error, redis.AuthenticationError)
    except PyMongoError:
        return False
    return True


@contextlib.contextmanager
def own_redis(folder: Path, *options: str) -> Iterator[int]:
    """Run a redis-server (or valkey-server) with these options, and yield its port."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    base = ["--port", str(port), "--bind", "127.0.0.1"]
    if "--sentinel" in options:
        config = folder / "sentinel.conf"
        config.write_text(f"port {port}\nbind 127.0.0.1\n")
        command = [_program("redis"), str(config), "--sentinel"]
    else:
        command = [_program("redis"), *base, "--dir", str(folder), "--save", "", *options]
    with running(command, folder / "redis.log"), redis.Redis(port=port) as client:
        block_until(lambda: is_up(client.ping), "Redis to answer")
        yield port


@contextlib.contextmanager
def own_mongod(folder: Path, *options: str) -> Iterator[int]:
    """Run a mongod with these options, which is not initiated yet, and yield its port."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [_program("mongo"), *MONGOD_OPTIONS.split(), "--port", str(port)]
    command += ["--dbpath", str(folder), *options]
    with (
        running(command, folder / "mongod.log"),
        pymongo.MongoClient[dict[str, Any]](
            f"mongodb://127.0.0.1:{port}/?directConnection=true", serverSelectionTimeoutMS=200
        ) as client,
    ):
        block_until(lambda: is_up(lambda: client.admin.command("hello")), "MongoDB to answer")
        yield port


def initiate(port: int) -> None:
    """Make a new mongod the primary of its replica set."""
    with pymongo.MongoClient[dict[str, Any]](
        f"mongodb://127.0.0.1:{port}/?directConnection=true"
    ) as client:
        members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
        block_until(
            lambda: client.admin.command("hello")["isWritablePrimary"], "MongoDB to elect itself"
        )


@dataclass
class Certificate:
    """A certificate for 127.0.0.1 that it has signed itself. `file` is the certificate alone."""

    file: Path
    with_key: Path

    @classmethod
    def create(cls, folder: Path) -> "Certificate":
        """Create one with openssl."""
        key, file, both = (folder / name for name in ("key.pem", "cert.pem", "both.pem"))
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        )
        subprocess.run(
            [
                *command.split(),
                *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(key), "-out", str(file)),
            ],
            check=True,
            capture_output=True,
        )
        both.write_bytes(key.read_bytes() + file.read_bytes())
        return cls(file, both)


@contextlib.contextmanager
def answering(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept connections, run `handle` with each in a thread of its own, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener is closed
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=_handle, args=(handle, client), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _handle(handle: Callable[[socket.socket], None], client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        handle(client)


@contextlib.contextmanager
def tls_in_front_of(path: str, certificate: Certificate) -> Iterator[int]:
    """Run a TLS terminator in front of a unix socket, and yield its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.with_key)

    def carry(client: socket.socket) -> None:
        with (
            context.wrap_socket(client, server_side=True) as secure,
            socket.socket(socket.AF_UNIX) as server,
        ):
            server.connect(path)
            back = threading.Thread(target=_copy, args=(server, secure), daemon=True)
            back.start()
            _copy(secure, server)
            back.join()

    with answering(carry) as port:
        yield port


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until one side closes, then close both."""
    with contextlib.suppress(OSError):
        while received := source.recv(65_536):
            target.sendall(received)
    for side in (source, target):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
