"""What an error of MongoDB or Redis means, and how to fix it, for the log, the greeting and doctor.

A server that answers with an error does not fail to answer, and only its text says what is wrong.
"""

import re
from typing import Literal, NamedTuple

import hiredis
from pymongo.errors import OperationFailure
from redis.exceptions import ResponseError

from chatlab.server_urls import redact

Server = Literal["MongoDB", "Redis"]


class Diagnosis(NamedTuple):
    """`problem` completes a sentence that begins with the name of the server."""

    problem: str
    fix: str


_RIGHTS = "docs/operations.md#minimal-rights lists the rights that chatlab needs"
# A pattern in the text of an error, what it means, and how to fix it. `{url}` is the variable with
# the URL; `{0}` is the first group of the pattern.
_BOTH = (
    (
        r"(?:Hostname|IP address) mismatch",
        "has a certificate for another name than the one in the URL",
        "use a name of its certificate in {url}",
    ),
    (
        r"certificate has expired",
        "has a certificate that has expired",
        "renew it, and check the clock of this machine",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "has a certificate of an authority that this machine does not know",
        (
            "name the file with the certificate of that authority in {url}: tlsCAFile for MongoDB, "
            "ssl_ca_certs for Redis"
        ),
    ),
    (
        r"(?i:certificate[ _]required|handshake failure|bad certificate|unknown ca)",
        "does not accept the certificate of this client, or got none",
        (
            "name its file in {url}: tlsCertificateKeyFile for MongoDB, "
            "ssl_certfile and ssl_keyfile for Redis"
        ),
    ),
    (
        r"WRONG_VERSION_NUMBER|UNEXPECTED_EOF|RECORD_LAYER_FAILURE",
        "does not speak TLS on this port",
        "correct the port, or use {url} without TLS",
    ),
    (
        (
            r"Name or service not known|nodename nor servname|No address associated"
            r"|[Tt]emporary failure in name resolution|DNS query name does not exist"
        ),
        "has a host name without an address",
        "correct the host in {url}, or check the name server of this machine",
    ),
)
_MONGODB = (
    (
        r"^(?:18|8000) |Authentication failed|bad auth",
        "refuses the user name or the password",
        "correct them in {url}; if the user is defined in another database, add authSource=NAME",
    ),
    (
        r"requires authentication",
        "requires a user name and a password",
        "write them in {url}: mongodb://user:password@host",
    ),
    (
        r"not authorized on (\S+) to execute command \{ (\w+)",
        "forbids this user the command {1} on the database {0}",
        f"grant the user the role readWrite on {{0}}; {_RIGHTS}",
    ),
    (
        r"replica set named '(.*?)' but this node belongs to a set named '(.*?)'",
        "belongs to the replica set {1}, but {url} names {0}",
        "correct replicaSet in {url}",
    ),
    (
        r"No replica set members available for replica set name \"(.*?)\"",
        "belongs to another replica set than {0}, which {url} names",
        "correct replicaSet in {url}",
    ),
    (
        r"RSGhost|NotPrimaryOrSecondary|NotYetInitialized",
        "is not a member of a working replica set",
        "initiate it with rs.initiate() in mongosh, or look at rs.status()",
    ),
    (
        r"NotWritablePrimary|NotPrimaryNoSecondaryOk|^(?:10107|13435) |not (?:primary|master)",
        "is a secondary, which accepts no writes",
        "name all members of the replica set in {url}, without directConnection",
    ),
    (
        r"match selector \"Primary\(\)\".*server_type: RSSecondary",
        "has no primary at the moment",
        "look at rs.status() in mongosh: a majority of the members must be running",
    ),
    (
        r"^(?:85|86) .*?((?:Index|An existing index|An equivalent index).*)",
        "has an index that contradicts one of chatlab: {0}",
        "drop that index: db.COLLECTION.dropIndex(NAME) in mongosh; chatlab creates its own",
    ),
    (
        r"^11000 .*?Index build failed.*?(E11000.*)",
        "has documents that contradict a unique index of chatlab: {0}",
        "remove or correct one of the two documents",
    ),
    (
        r"\b14031\b|No space left|OutOfDiskSpace",
        "has no space left on its disk",
        "free space there, or enlarge the disk",
    ),
    (
        r"reports wire version|MaxWireVersion|maximum wire version",
        "is too old for this version of pymongo",
        "use MongoDB 6.0 or newer",
    ),
    (
        r"Got response id|ProtocolError|invalid message size",
        "is not a MongoDB: something else answers at this address",
        "correct host and port in {url}",
    ),
    (
        r"^(?:59|115) .*?: (.*)",
        "does not know a command that chatlab needs: {0}",
        "use MongoDB 6.0 or newer",
    ),
)
# What HELLO calls the mode or the role of a Redis that the cache cannot use.
_KINDS = {
    "cluster": (
        "is a node of a Redis Cluster",
        "use redis+cluster:// in {url}, with the addresses of some of its nodes",
    ),
    "replica": (
        "is a replica, which accepts no writes",
        "use the primary in {url}",
    ),
    "sentinel": (
        "is a Sentinel, or a proxy that knows only a part of the commands",
        "use the address of Redis in {url}, or redis+sentinel:// with the name of the service",
    ),
}
_REDIS = (
    (
        r"WRONGPASS|invalid (?:username-)?password",
        "refuses the user name or the password",
        "correct them in {url}",
    ),
    (
        r"NOAUTH|Authentication required|client already authenticated",
        "requires a password",
        "write it in {url}: redis://user:password@host, or redis://:password@host",
    ),
    (
        r"without any password configured",
        "has no password, but {url} has one",
        "set a password in Redis, or remove it from {url}",
    ),
    (
        r"permissions? to (?:run|access).*?(?:'([\w|]+)'|(channel|key))|script can't run",
        "forbids this user a command, a key or a channel: {0}",
        _RIGHTS,
    ),
    (
        r"Cluster mode is not enabled",
        "is not a Redis Cluster",
        "use redis:// in {url}",
    ),
    (
        r"MovedError|MOVED |AskError|ASK |ClusterDown|CLUSTERDOWN|CROSSSLOT|in cluster mode",
        *_KINDS["cluster"],
    ),
    (
        r"READONLY|ReadOnlyError|read.only replica",
        *_KINDS["replica"],
    ),
    (
        r"unknown command [`'](?:SELECT|SET|TIME|EVAL|EVALSHA|SCRIPT|MULTI)\b",
        *_KINDS["sentinel"],
    ),
    (
        r"DB index is out of range",
        "has no database with the number in {url}",
        "use a number below `databases` in its configuration, which is 16 by default",
    ),
    (
        r"MISCONF",
        "cannot write to its disk, and so refuses all writes",
        "free space there; a cache needs no disk: CONFIG SET save ''",
    ),
    (
        r"\bOOM\b|OutOfMemoryError|used memory > 'maxmemory'",
        "has no memory left for writes",
        "raise its maxmemory, and set maxmemory-policy to volatile-ttl",
    ),
    (
        r"LOADING|BusyLoadingError|loading the dataset",
        "is still loading its data",
        "wait, or give the cache a Redis of its own that stores nothing on disk",
    ),
    (
        r"MasterNotFoundError: No master found for '(.*?)'",
        "has no primary that the Sentinels know by the name {0}, or no Sentinel answers",
        "correct the name in {url}, or look at SENTINEL MASTERS in redis-cli",
    ),
    (
        r"protected mode",
        "is in protected mode: it accepts only clients of its own machine",
        "set a password in Redis, and write it in {url}",
    ),
    (
        r"max number of clients",
        "has as many clients as it may have",
        "raise its maxclients",
    ),
    (
        r"NOREPLICAS|NoReplicas",
        "has too few replicas, and so refuses writes",
        "start its replicas, or set min-replicas-to-write to 0",
    ),
    (
        r"Protocol [Ee]rror|InvalidResponse|ProtocolError",
        "is not a Redis: something else answers at this address",
        "correct host and port in {url}",
    ),
)
_TABLES = {"MongoDB": _MONGODB + _BOTH, "Redis": _REDIS + _BOTH}
_VARIABLES = {"MongoDB": "CHATLAB_MONGO_URL", "Redis": "CHATLAB_REDIS_URL"}


class MisconfiguredError(Exception):
    """A server answers, but this installation may not use it as it is."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.diagnosis = Diagnosis(problem, fix)


def diagnose(server: Server, error: BaseException) -> Diagnosis | None:
    """Return what is wrong with a server, or None if it does not answer."""
    if isinstance(error, MisconfiguredError):
        return error.diagnosis
    text = f"{getattr(error, 'code', None) or ''} {type(error).__name__}: {error}"
    for pattern, problem, fix in _TABLES[server]:
        if found := re.search(pattern, text, re.DOTALL):
            values = [redact(brief(group or "")) for group in found.groups()]
            url = _VARIABLES[server]
            return Diagnosis(problem.format(*values, url=url), fix.format(*values, url=url))
    if isinstance(error, OperationFailure | ResponseError | hiredis.ReplyError):
        return Diagnosis(f"answers with an error: {brief(str(error))}", "")
    return None


def diagnose_kind(mode_or_role: str) -> Diagnosis | None:
    """Return why the cache cannot use a Redis of this mode or role, as HELLO names it."""
    if mode_or_role not in _KINDS:
        return None
    problem, fix = _KINDS[mode_or_role]
    return Diagnosis(problem, fix.format(url=_VARIABLES["Redis"]))


def explain(server: Server, error: BaseException) -> tuple[bool, str]:
    """Return whether the server answers, and what is wrong with it as the end of a sentence."""
    found = diagnose(server, error)
    if found is None:
        text = redact(brief(str(error)))
        return False, f"does not answer ({type(error).__name__}: {text})"
    fix = f". Fix: {found.fix}" if found.fix else ""
    return True, f"{found.problem}{fix}"


def brief(text: str) -> str:
    """Return the text of an error without the details that pymongo adds."""
    return re.split(
        r",? \(configured timeouts|, full error|, Timeout: |, Topology Description", text
    )[0]
