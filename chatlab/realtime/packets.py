"""How Socket.IO packets are encoded and decoded in this service."""

from typing import Any

import msgspec
import socketio


class StrictJson:
    """The JSON codec of Socket.IO packets.

    It is fast, strict, and able to include bytes that are JSON already.
    """

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str) -> Any:
        """Decode the text. Raises ValueError if it is not JSON, or is nested too deeply."""
        try:
            return msgspec.json.decode(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None


class TextPacket(socketio.packet.Packet):  # type: ignore[misc]  # the library has no types
    """A packet without binary attachments.

    chatlab sends none. A server that waits for announced attachments lets a client fill its memory.
    """

    uses_binary_events = False
    json = StrictJson

    def decode(self, encoded_packet: str) -> int:
        """Decode a packet and return the number of its attachments.

        Raises ValueError for a binary packet.
        """
        if encoded_packet[:1] in ("5", "6"):
            raise ValueError("binary events are not accepted")
        attachments = super().decode(encoded_packet) or 0
        if self.packet_type == socketio.packet.EVENT and self.data[0] in ("connect", "disconnect"):
            # The library would treat a client's event of this name as its own.
            self.data[0] = "reserved"
        return attachments
