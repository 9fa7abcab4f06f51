"""A machine of its own: systemd as PID 1 in its own namespaces, over this machine's root file system.

Rules:
  * Nothing it does reaches this machine: its root is an overlay whose upper layer is a tmpfs, its mounts,
    processes, network and host name are its own. When its first process ends, and that dies with us, everything
    is gone but for its control groups, which `Machine.close` removes.
  * It needs root and a kernel that grants the namespaces: `why_not` says what is missing.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

BOOT_SECONDS_MAX: Final = 180.0
COMMAND_SECONDS_MAX: Final = 600.0
WAIT_SECONDS_MAX: Final = 120.0
LOOK_SECONDS: Final = 0.05
"""Between two looks at what announces itself by no event across the namespaces."""
DISK: Final = "1g"

T = TypeVar("T")

_TOOLS: Final = (
    *("unshare", "nsenter", "setpriv", "mount", "umount", "pivot_root", "ip"),
    *("ss", "useradd", "runuser"),
)
_GROUP: Final = "ssm-status-reporter-test-"
"""The control groups of a test run are named so, and by its process."""
_SYSTEMD: Final = Path("/lib/systemd/systemd")
_CONTROLLERS: Final = frozenset({"name=systemd", "cpu", "cpu,cpuacct", "memory", "pids", "devices", "freezer"})
"""The cgroup v1 hierarchies that systemd uses; version 2 is one hierarchy and always taken."""

_BOOT: Final = r"""
set -eu
base=$1
mount -t tmpfs -o size=$2,mode=755 tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" overlay "$base/root"
cd "$base/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
shift 2
for hierarchy; do
    where=${hierarchy%%:*} options=${hierarchy#*:}
    case $options in
        v2) type=cgroup2 options=rw ;;
        name=*) type=cgroup options=none,$options ;;
        *) type=cgroup ;;
    esac
    case $where in sys/fs/cgroup) ;; *)
        mountpoint -q sys/fs/cgroup || mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
        mkdir -p "$where" ;;
    esac
    mount -t $type -o "$options" cgroup "$where"
done
hostname ssm-status-reporter-test
mkdir -p mnt/before
pivot_root . mnt/before
umount -l /mnt/before
# As systemd has it on a real machine: what it mounts for a service reaches the service's own namespace.
mount --make-rshared /
ip link set lo up
# An image's ban on starting services is not this machine's.
rm -f usr/sbin/policy-rc.d
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=basic.target --log-target=journal --show-status=no </dev/null
"""


def why_not() -> str | None:
    """What is missing to boot a machine here; None: nothing."""
    if os.geteuid() != 0:
        return "a real systemd needs root to boot"
    if not _SYSTEMD.exists():
        return f"{_SYSTEMD} is not here"
    if Path("/usr").stat().st_dev != Path("/").stat().st_dev:
        return "/usr is a file system of its own: an overlay over / would not have it"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not here: {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--cgroup", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        return f"no namespaces: {tried.stderr.strip()}"
    if not all(os.access(group.parent, os.W_OK) for _, _, group in _hierarchies("probe")):
        return "the control groups are read-only"
    return None


def _hierarchies(name: str) -> Iterator[tuple[str, str, Path]]:
    """Each mounted cgroup hierarchy: where below the root, what to mount, and a group of that name in ours."""
    ours = {}
    for line in Path("/proc/self/cgroup").read_text("ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        ours[controllers] = path.strip("/")
    for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        before, after = line.split(" - ", 1)
        where, (kind, _, options) = before.split()[4], after.split()[:3]
        if kind == "cgroup2":
            yield where.strip("/"), "v2", Path(where, ours.get("", ""), name)
        elif kind == "cgroup":
            controllers = ",".join(sorted(set(options.split(",")) & _controllers(ours)))
            if controllers in _CONTROLLERS:
                yield where.strip("/"), controllers, Path(where, ours.get(controllers, ""), name)


def _controllers(ours: Mapping[str, str]) -> set[str]:
    return {each for controllers in ours for each in controllers.split(",") if each}


class CommandFailedError(AssertionError):
    """A command on the machine ended badly; the text holds what it printed."""


class Machine:
    """A booted machine. Files are reached by `path`, everything else by `run`."""

    def __init__(self, base: Path) -> None:
        self._hierarchies = list(_hierarchies(f"{_GROUP}{os.getpid()}"))
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._log = base.with_suffix(".log")
        base.mkdir()
        try:
            self._boot(base)
        except BaseException:
            self.close()
            raise

    def _boot(self, base: Path) -> None:
        groups = [group for _, _, group in self._hierarchies]
        for group in groups:
            _remove_leftovers(group.parent)
            group.mkdir()
        # Into the groups first, so that the new control group namespace has them as its roots.
        enter = "".join(f'echo $$ > "{group}/cgroup.procs"\n' for group in groups)
        unshared = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount", "--propagation", "private"]
        unshared += ["--uts", "--ipc", "--net", "--cgroup", "--", "sh", "-c", _BOOT, "boot", str(base), DISK]
        unshared += [f"{where}:{options}" for where, options, _ in sorted(self._hierarchies)]
        with self._log.open("wb") as log:
            self._supervisor = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "sh", "-c", f'{enter}exec "$@"', "enter", *unshared],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.until(self._is_up, "the machine is up", BOOT_SECONDS_MAX)

    def _is_up(self) -> bool:
        assert self._supervisor is not None
        assert self._supervisor.poll() is None, f"it did not boot: {self._log.read_text('utf-8', 'replace')}"
        if not self._first:
            pid = self._supervisor.pid
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
            if not children or Path(f"/proc/{children[0]}/comm").read_text("ascii").strip() != "systemd":
                return False
            self._first = int(children[0])
        if not self.path("/run/systemd/private").is_socket():
            return False
        return self.run("systemctl", "is-system-running", "--wait", check=False).strip() in {"running", "degraded"}

    def path(self, path: str) -> Path:
        """A file of the machine, as this process reaches it."""
        return Path(f"/proc/{self._first}/root{path}")

    def run(self, *command: str, check: bool = True, feed: str = "") -> str:
        """Run a command on the machine, as root; what it printed, standard error included.

        Raises `CommandFailedError`, unless not to ``check``.
        """
        ended = subprocess.run(
            ["nsenter", "--target", str(self._first), "--all", "env", "-i", "--chdir=/", "LC_ALL=C.UTF-8",
             "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", *command],
            input=feed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",  # the journal's export format has binary lengths in it
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )  # fmt: skip
        if check and ended.returncode:
            raise CommandFailedError(f"{' '.join(command)}: exit {ended.returncode}\n{ended.stdout}")
        return ended.stdout

    def write(self, path: str, text: str, *, mode: int = 0o644, owner: str = "root:root") -> None:
        """Make a file with its directories, whole at once."""
        self.run("mkdir", "-p", str(Path(path).parent))
        draft = f"{Path(path).parent}/.draft"
        self.run(
            "sh", "-c", f'umask 077; cat > "{draft}"; chown {owner} "{draft}"; chmod {mode:o} "{draft}"', feed=text
        )
        self.run("mv", "-f", draft, path)

    def shown(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The journal's entries that match, oldest first."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "--quiet", "--output=json", "--all", *matches, check=False).splitlines()
        return [json.loads(line) for line in lines]

    def until(self, look: Callable[[], T], what: str, seconds_max: float = WAIT_SECONDS_MAX) -> T:
        """Look until there is something true."""
        deadline = time.monotonic() + seconds_max
        while not (found := look()):
            assert time.monotonic() < deadline, f"never came in {seconds_max:.0f} s: {what}\n{self.last_words()}"
            time.sleep(LOOK_SECONDS)
        return found

    def last_words(self) -> str:
        """What the machine said last."""
        if not self._first:
            return self._log.read_text("utf-8", "replace")
        return self.run("journalctl", "--no-pager", "--lines=40", "--output=short-precise", check=False)

    def close(self) -> None:
        """End it, and remove what it had on this machine."""
        if self._supervisor is not None:
            self._supervisor.kill()
            self._supervisor.wait()
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while self._first_process is not None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        for _, _, group in self._hierarchies:
            _remove(group)

    def leftovers(self) -> list[str]:
        """What a closed machine has left on this one: control groups, mounts, processes."""
        left = [str(group) for _, _, group in self._hierarchies if group.exists()]
        base = str(self._log.with_suffix(""))
        left += [line for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines() if base in line]
        return left if self._first_process is None else [*left, str(self._first_process)]

    @property
    def _first_process(self) -> Path | None:
        """The machine's first process, as long as this machine has it."""
        path = Path(f"/proc/{self._first}")
        return path if self._first and path.exists() else None


def _remove(group: Path) -> None:
    """Remove a control group: the kernel lets go of it once the last process in it is reaped."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while group.exists() and time.monotonic() < deadline:
        below = sorted(group.rglob("*"), key=lambda each: len(each.parts), reverse=True)
        for each in [*(path for path in below if path.is_dir()), group]:
            with suppress(OSError):
                each.rmdir()
        if group.exists():
            time.sleep(LOOK_SECONDS)


def _remove_leftovers(parent: Path) -> None:
    """Remove the groups of test runs that were killed before they could."""
    for group in parent.glob(f"{_GROUP}*"):
        if not Path("/proc", group.name.removeprefix(_GROUP)).exists():
            _remove(group)
