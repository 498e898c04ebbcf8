"""One JupyterLab server with folders of its own, and its end without anything left behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.house.sources import ROOT

EXTENSION = ROOT / "widgets" / "labextension"
START = 180
"""Seconds that a slow machine may take to start the server."""
STOP = 30
"""Seconds that the server has to end its kernels and itself."""
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "apputils-extension/themes": {"theme": "JupyterLab Light"},
}


@dataclass(frozen=True)
class Server:
    """A running JupyterLab."""

    url: str
    """Its address, without a slash at the end."""
    token: str
    """What lets a client in."""
    root: Path
    """The folder that it serves."""
    settings: Path
    """The folder of the user's settings."""

    def call(self, method: str, path: str) -> Any:
        """Return what the REST interface answers."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            body = reply.read()
        return json.loads(body) if body else None

    def end_sessions(self) -> None:
        """Shut down every kernel and wait until it is gone."""
        for session in self.call("GET", "/api/sessions"):
            self.call("DELETE", f"/api/sessions/{session['id']}")
        for kernel in self.call("GET", "/api/kernels"):
            with contextlib.suppress(urllib.error.HTTPError):
                self.call("DELETE", f"/api/kernels/{kernel['id']}")

    def reset_settings(self) -> None:
        """Write the settings that every test begins with."""
        for name, values in SETTINGS.items():
            path = self.settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values), encoding="utf-8")


@contextlib.contextmanager
def serving(folder: Path, *, extensions: bool = True) -> Iterator[Server]:
    """Run JupyterLab in a folder for as long as the block lasts.

    Args:
        folder: An empty folder for everything that the server reads and writes.
        extensions: Whether it sees the extension of this checkout.
    """
    root, log = folder / "root", folder / "server.log"
    root.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("serve.py")), *_options(folder)]
    if extensions:
        links = folder / "extensions"
        links.mkdir()
        (links / "v4kit").symlink_to(EXTENSION, target_is_directory=True)
        command.append(f"--LabServerApp.extra_labextensions_path={links}")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=root,
            env=_environment(folder),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            server = Server(*_address(process, folder, log), root, folder / "settings")
            server.reset_settings()
            yield server
        finally:
            _stop(process)


def _options(folder: Path) -> list[str]:
    return [
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        f"--ServerApp.root_dir={folder / 'root'}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]


def _environment(folder: Path) -> dict[str, str]:
    own = {
        "HOME": "home",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    folders = {name: str(folder / path) for name, path in own.items()}
    for path in folders.values():
        Path(path).mkdir()
    # Python's own warnings are not this suite's: PYTHONWARNINGS may turn them into errors.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    return {**inherited, **folders, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def _address(process: subprocess.Popen, folder: Path, log: Path) -> tuple[str, str]:
    """Wait until the server answers; return its address and token."""
    started, about = time.monotonic(), folder / "runtime" / f"jpserver-{process.pid}.json"
    while process.poll() is None and time.monotonic() - started < START:
        # The file is written when the server listens, but not at once as a whole.
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(about.read_text(encoding="utf-8"))
            url = known["url"].rstrip("/").replace("localhost", "127.0.0.1")
            urllib.request.urlopen(f"{url}/api", timeout=5).close()
            return url, known["token"]
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _stop(process: subprocess.Popen) -> None:
    """End the server; take away whatever it leaves behind."""
    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.stdin.close()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(children, timeout=5)
    for child in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
