"""A real Mosquitto for tests: on a free loopback port, with password file, ACL, TLS and persistence; killed at will."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from package_support import program

START_SECONDS_MAX = 120.0
USER = "reporter"
PASSWORD = "correct horse"


def mosquitto_binary() -> str:
    """The broker's path; the test is skipped where it is not to be had."""
    return program("mosquitto", "mosquitto")


@dataclass
class Broker:
    """One Mosquitto. Its port and its data stay the same over restarts."""

    directory: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        with (self.directory / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [mosquitto_binary(), "-c", str(self.directory / "mosquitto.conf")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"Mosquitto does not start:\n{self.log()}") from None
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: it says goodbye and saves its data."""
        self._end(signal.SIGTERM)

    def save(self) -> None:
        """Have it save its data now, and wait for that."""
        database = self.directory / "data" / "mosquitto.db"
        before = database.stat().st_mtime_ns if database.exists() else 0
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not database.exists() or database.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, "Mosquitto does not save"
            time.sleep(0.01)

    def log(self) -> str:
        """What it said."""
        return (self.directory / "broker.log").read_text(errors="replace")

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(START_SECONDS_MAX)
            self.process = None


@contextmanager
def running_broker(
    directory: Path, *lines: str, acl: str | None = None, tls: "Certificates | None" = None
) -> Iterator[Broker]:
    """A started broker that wants the user and the password above; ``lines`` go into its configuration."""
    binary = mosquitto_binary()
    data = directory / "data"
    data.mkdir(parents=True)
    broker = Broker(directory, free_port())
    passwords = directory / "passwords"
    passwords.touch(0o600)
    subprocess.run(
        [str(Path(binary).parent.parent / "bin" / "mosquitto_passwd"), "-b", str(passwords), USER, PASSWORD],
        check=True,
        capture_output=True,
    )
    configuration = [
        f"listener {broker.port} 127.0.0.1",
        "allow_anonymous false",
        f"password_file {passwords}",
        "persistence true",
        f"persistence_location {data}/",
        "max_queued_messages 0",
        "max_inflight_messages 0",
        "set_tcp_nodelay true",  # else each confirmation may wait 40 ms for the client's ACK
        "log_dest stderr",
        "log_type all",
        *lines,
    ]
    if os.geteuid() == 0:
        configuration.append("user root")  # else it becomes somebody who may not read the test's files
    if acl is not None:
        (directory / "acl").write_text(acl)
        configuration.append(f"acl_file {directory / 'acl'}")
    if tls is not None:
        configuration += [f"cafile {tls.ca}", f"certfile {tls.server}", f"keyfile {tls.server_key}"]
        configuration += ["require_certificate true"]
    (directory / "mosquitto.conf").write_text("\n".join(configuration) + "\n")
    broker.start()
    try:
        yield broker
    finally:
        if broker.process is not None:
            broker.kill()


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it signed: the broker's certificate for localhost and a client's."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(directory: Path, *, names: str = "DNS:localhost,IP:127.0.0.1") -> Certificates:
    """New ones, valid for a day."""
    directory.mkdir(parents=True, exist_ok=True)
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    _openssl(ca, ca_key, "authority", "basicConstraints=critical,CA:TRUE")
    issuer = ("-CA", str(ca), "-CAkey", str(ca_key))
    server, server_key = directory / "server.pem", directory / "server.key"
    _openssl(server, server_key, "broker", f"subjectAltName={names}", *issuer)
    client, client_key = directory / "client.pem", directory / "client.key"
    _openssl(client, client_key, "client", "extendedKeyUsage=clientAuth", *issuer)
    return Certificates(ca, server, server_key, client, client_key)


def _openssl(certificate: Path, key: Path, name: str, extension: str, *issuer: str) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-subj", f"/CN={name}", "-addext", extension),
            *("-keyout", str(key), "-out", str(certificate)),
            *issuer,
        ],
        check=True,
        capture_output=True,
    )
