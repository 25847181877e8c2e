"""A directory tree that looks like a cgroup2 mount, for what this host's own mount cannot show."""

from __future__ import annotations

from pathlib import Path

CONTROLS = {
    "cpu": {"cpu.weight": "100", "cpu.max": "max 100000", "cpu.max.burst": "0", "cpu.idle": "0"},
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
    "io": {"io.weight": "default 100", "io.max": "",
           "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"},
    "memory": {"memory.max": "max", "memory.swap.max": "max", "memory.low": "0",
               "memory.high": "max", "memory.current": "65536", "memory.peak": "131072",
               "memory.stat": "anon 4096\nfile 8192\n",
               "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n"},
    "pids": {"pids.max": "max", "pids.current": "1"},
    "hugetlb": {"hugetlb.2MB.max": "max", "hugetlb.2MB.rsvd.max": "max"},
}
_CPU_STAT = ("usage_usec 1000\nuser_usec 600\nsystem_usec 400\n"
             "nr_periods 4\nnr_throttled 1\nthrottled_usec 50\n")


class Cgroup2Tree:
    """A fake hierarchy below ``top``; ``mkdir`` and ``rmdir`` go into the ``Cgroup2`` under test.

    A new directory is given to know the controllers its parent handed down, as the kernel does it,
    but holds every control file at once.
    """

    def __init__(self, top: Path, controllers: tuple[str, ...] = tuple(CONTROLS)) -> None:
        self.top = top
        self._controllers = controllers
        (top / "cgroup.controllers").write_text(" ".join(controllers))
        (top / "cgroup.subtree_control").write_text("")

    def mkdir(self, path: str) -> None:
        """Make a cgroup with its control files."""
        made = Path(path)
        made.mkdir()
        handed = (made.parent / "cgroup.subtree_control").read_text().replace("+", "")
        files = {"cgroup.controllers": handed, "cgroup.subtree_control": "", "cgroup.procs": "",
                 "cgroup.freeze": "0", "cgroup.events": "populated 0\nfrozen 0\n",
                 "cgroup.kill": "", "cpu.stat": _CPU_STAT}
        for controller in self._controllers:
            files |= CONTROLS[controller]
        for name, text in files.items():
            (made / name).write_text(text)

    def rmdir(self, path: str) -> None:
        """Remove a cgroup, its control files with it; children keep it, as in the kernel."""
        gone = Path(path)
        if not any(entry.is_dir() for entry in gone.iterdir()):
            for entry in gone.iterdir():
                entry.unlink()
        gone.rmdir()
