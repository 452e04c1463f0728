"""Limit the size of a request's head: uvicorn's parser (httptools) reads a head of any size."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chatlab.web.problems import PROBLEM_JSON, problem_body

MAX_HEAD_BYTES = 65_536


class LimitedHeadProtocol(HttpToolsProtocol):
    """Close a connection whose request line and headers have more than MAX_HEAD_BYTES bytes.

    A rejected request gets status 400 as a problem, like every other error.
    """

    _in_head, _head_bytes = True, 0

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse the data; reject the request if its head is still incomplete and too large."""
        super().data_received(data)
        self._head_bytes += len(data)
        too_large = self._in_head and self._head_bytes > MAX_HEAD_BYTES
        if too_large and not self.transport.is_closing():
            self.send_400_response(
                f"The request line and the headers have more than {MAX_HEAD_BYTES} bytes."
            )

    def send_400_response(self, msg: str) -> None:
        """Send status 400 as a problem and close the connection.

        uvicorn calls this too, for bytes that are not an HTTP request.
        """
        body = problem_body(400, "invalid", msg)
        headers = [*self.server_state.default_headers, (b"content-type", PROBLEM_JSON.encode())]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        headers += [(b"cache-control", b"no-store")]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[400] + lines + b"\r\n" + body)
        self.transport.close()
