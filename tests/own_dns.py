"""A DNS server for one domain, and the `chatlab` command with this server as its resolver.

With the port of the server as first argument, the module is that command.
"""

import socket
import sys
import threading

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset

DOMAIN = "db.chat.test"


class OwnDns:
    """Answers questions about DOMAIN, whose MongoDB listens on this port, or fails all of them.

    `questions` counts those that failed.
    """

    def __init__(self, mongo_port: int) -> None:
        self.is_up, self.questions = False, 0
        self._records = {
            (f"_mongodb._tcp.{DOMAIN}.", "SRV"): f"0 0 {mongo_port} mongod.chat.test.",
            ("mongod.chat.test.", "A"): "127.0.0.1",
        }
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(4096)
            self._socket.sendto(self._answer(dns.message.from_wire(data)).to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer, (question,) = dns.message.make_response(query), query.question
        answer.flags |= dns.flags.RA
        kind = dns.rdatatype.to_text(question.rdtype)
        if not self.is_up:
            self.questions += 1
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif found := self._records.get((str(question.name), kind)):
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, found))
        return answer


def use_resolver(port: int) -> None:
    """Let this process ask no other DNS server."""
    for module in (dns.resolver, dns.asyncresolver):
        resolver = module.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], port
        setattr(module, "default_resolver", resolver)  # noqa: B010 - not in the type of a module
    dns.resolver.override_system_resolver(dns.resolver.get_default_resolver())
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # it has a resolver of its own


if __name__ == "__main__":
    use_resolver(int(sys.argv.pop(1)))
    from chatlab.cli import main

    main()
