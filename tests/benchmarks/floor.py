"""The floor: what the job costs at the least. Raw inotify, one FULL commit, one POST on a kept connection.

Run as a process with a directory and a port; prints a line when it watches, and runs until killed.
"""

import ctypes
import http.client
import os
import sqlite3
import struct
import sys
from pathlib import Path

IN_MOVED_TO = 0x80
EVENT = struct.Struct("iIII")


def main(directory: str, port: int, database: str) -> None:
    """For each file renamed into the directory: read, commit, post, unlink."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(0)
    libc.inotify_add_watch(descriptor, directory.encode(), IN_MOVED_TO)
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE result (name TEXT PRIMARY KEY, content BLOB)")
    service = http.client.HTTPConnection("127.0.0.1", port)
    print("watching", flush=True)
    while True:
        data = os.read(descriptor, 65536)
        offset = 0
        while offset < len(data):
            _, _, _, length = EVENT.unpack_from(data, offset)
            name = data[offset + EVENT.size : offset + EVENT.size + length].rstrip(b"\0").decode()
            offset += EVENT.size + length
            path = Path(directory, name)
            content = path.read_bytes()
            connection.execute("INSERT OR REPLACE INTO result VALUES (?, ?)", (name, content))
            service.request("POST", "/", content)
            service.getresponse().read()
            path.unlink()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
