"""Encode and decode websocket frames, as far as Socket.IO needs them."""

UPGRADE_PATH = "/socket.io/?EIO=4&transport=websocket"
UPGRADE_HEADERS = (
    "Host: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def encode_frame(text: bytes) -> bytes:
    """Return a client's text frame. Its mask is 0, which leaves the text unchanged."""
    size = len(text)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + text


def decode_frames(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the texts of all complete frames of a server, and the remaining bytes."""
    texts, position = [], 0
    while len(data) - position >= 2:
        size, start = data[position + 1], position + 2
        if size >= 126:
            length_bytes = 2 if size == 126 else 8
            size, start = (
                int.from_bytes(data[start : start + length_bytes], "big"),
                start + length_bytes,
            )
        if len(data) < start + size:
            break
        texts.append(data[start : start + size])
        position = start + size
    return texts, data[position:]
