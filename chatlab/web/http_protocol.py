"""How HTTP is read from a connection: uvicorn's way, with an end to the request line and the headers, which httptools reads without any."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chatlab.web.http import PROBLEM, problem_body

LARGEST_HEAD = 65_536  # bytes of request line and headers


class BoundedHead(HttpToolsProtocol):
    _in_head, _head = True, 0

    def on_message_begin(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """A head that has not ended by now is refused, and the connection closed."""
        super().data_received(data)
        self._head += len(data)
        if self._in_head and self._head > LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response(f"The request line and the headers have more than {LARGEST_HEAD} bytes.")

    def send_400_response(self, msg: str) -> None:
        """What is no request is refused in the same form as everything else, and the connection closed."""
        body = problem_body(400, "invalid", msg)
        headers = [*self.server_state.default_headers, (b"content-type", PROBLEM.encode())]
        headers += [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        self.transport.write(STATUS_LINE[400] + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body)
        self.transport.close()
