"""The sink: an HTTP server as lean as asyncio allows, that notes when each request's first byte arrived.

Run as a process: prints its port, then answers every POST with the same AssociationDescription. A request to
``/arrivals`` is answered with the monotonic times (ns) since the last such request, one a line.
"""

import asyncio
import json
import time

BODY = json.dumps({"AssociationDescription": {"Name": "Bench", "InstanceId": "i-0123456789abcdef0"}}).encode()
REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nx-amzn-RequestId: bench\r\n"
    b"Content-Length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
)


class Sink(asyncio.Protocol):
    """One connection."""

    arrivals: list[int] = []  # noqa: RUF012 (shared on purpose: one sink, many connections)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        """Answer every whole request in the buffer."""
        arrived = time.monotonic_ns()
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            del self._buffer[: end + 4 + length]
            if head.startswith(b"get /arrivals"):
                self._tell()
            else:
                self.arrivals.append(arrived)
                self._transport.write(REPLY)

    def _tell(self) -> None:
        body = "\n".join(map(str, self.arrivals)).encode()
        self.arrivals.clear()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
