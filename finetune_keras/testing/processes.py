"""Fresh processes: Python with Keras imported, and nothing else done.

To import Keras and its backend takes seconds. Where the system can fork, one
process that has done so waits, and each fresh one is a copy of it.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from finetune_keras.engine import backend

_SERVERS = {}


class FreshProcess:
    """A process that runs Python code, and has imported Keras.

    Args:
        *arguments: Strings or paths, as after `python`: a script or `"-c"`
            and code, then its arguments.
        env: Dict of environment variables. Defaults to those of this process.
        cwd: String or path, the folder to run in. Defaults to the present
            one.
    """

    def __init__(self, *arguments, env=None, cwd=None):
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name)
        self._files = {name: folder / name for name in ("out", "err")}
        for path in self._files.values():
            path.touch()
        env = {"KERAS_BACKEND": backend.name()} | dict(
            os.environ if env is None else env
        )
        job = {
            "arguments": [str(part) for part in arguments],
            "env": env,
            "cwd": str(cwd or os.getcwd()),
        }
        self._server = _server(env["KERAS_BACKEND"])
        files = {name: str(path) for name, path in self._files.items()}
        self.pid = self._server.ask({**job, **files})
        self.returncode = None

    @property
    def stdout(self):
        """String, what it has printed so far."""
        return self._files["out"].read_text()

    @property
    def stderr(self):
        """String, what it has written to standard error so far."""
        return self._files["err"].read_text()

    def poll(self):
        """Returns the exit status, negative for a signal, or `None`."""
        if self.returncode is None:
            self.returncode = self._server.ask(self.pid)
        return self.returncode

    def wait(self, timeout=600):
        """Waits for the end.

        Args:
            timeout: Number, seconds. Defaults to 600.

        Returns:
            Integer, the exit status, negative for a signal.

        Raises:
            TimeoutError: If it runs on for longer.
        """
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Process {self.pid} runs on.")
            time.sleep(0.01)
        return self.returncode

    def kill(self):
        """Kills it, if it still runs, as no code can prevent."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def lines(self):
        """Yields the lines that it prints, as they come, to its end."""
        with open(self._files["out"]) as file:
            rest = ""
            while True:
                ended = self.poll() is not None
                rest += file.read()
                *lines, rest = rest.split("\n")
                yield from lines
                if ended:
                    return
                time.sleep(0.005)


class _Server:
    """Forks where that is safe; it takes requests, and answers them."""

    def __init__(self, requests, answers):
        self._requests, self._answers = requests, answers

    @classmethod
    def start(cls, backend):
        """Starts one in a process that imports and does nothing else."""
        script = pathlib.Path(__file__).with_name("fork_server.py")
        # What the library imports is not among what is imported before.
        known = [x for x in ("keras", "tensorflow") if x in sys.modules]
        process = subprocess.Popen(
            # JAX warns of forks; it has computed nothing yet.
            [sys.executable, "-W", "ignore", script, *known],
            env={**os.environ, "KERAS_BACKEND": backend},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return cls(process.stdin, process.stdout)

    def ask(self, request):
        self._requests.write(f"{json.dumps(request)}\n")
        self._requests.flush()
        return json.loads(self._answers.readline())


class _Starter:
    """Starts each process from nothing, where there is no safe fork."""

    def __init__(self):
        self._processes = {}

    def ask(self, request):
        if isinstance(request, int):
            return self._processes[request].poll()
        with open(request["out"], "ab") as out, open(request["err"], "ab") as e:
            process = subprocess.Popen(
                [sys.executable, "-u", *request["arguments"]],
                env=request["env"],
                cwd=request["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=e,
            )
        self._processes[process.pid] = process
        return process.pid


def _server(backend):
    if backend not in _SERVERS:
        is_safe = sys.platform == "linux"
        _SERVERS[backend] = _Server.start(backend) if is_safe else _Starter()
    return _SERVERS[backend]


def ask_of(backend, requests, answers):
    """Takes the server that has been forked off this process.

    Args:
        backend: String, that of Keras.
        requests: Text file that is written to.
        answers: Text file that is read from.
    """
    _SERVERS[backend] = _Server(requests, answers)
