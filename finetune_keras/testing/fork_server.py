"""Imports modules once, then forks for each process that is asked for.

Run as a script, with the names of the modules, and nothing of the library.
Each line of the input is a JSON object: a process to start, or the number of
one to ask about.
"""

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import sys
import traceback


def serve(answers):
    """Answers requests; returns in each child, with what it is to run.

    Args:
        answers: A file to write to; requests come from standard input.

    Returns:
        Dict of the process to be, or `None` at the end of the input.
    """
    for line in sys.stdin:
        job = json.loads(line)
        if isinstance(job, int):
            answer = _status(job)
        elif not (answer := os.fork()):
            return job
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()


def become(job):
    """Makes this process what the job says, and runs its code.

    Args:
        job: Dict of `arguments`, as of `python`, `env`, `cwd`, and the files
            `stdout` and `stderr`.
    """
    for descriptor, path in enumerate((os.devnull, job["out"], job["err"])):
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(path, flags, 0o600), descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    random.seed()
    sys.modules["numpy"].random.seed()
    paths = job["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path]
    first, *rest = job["arguments"]
    if first == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        code = compile(rest[0], "<string>", "exec")
        exec(code, vars(_new_main()))
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def _status(number):
    """Exit status of a child, negative for a signal; `None` while it runs."""
    known, status = os.waitpid(number, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if known else None


def _new_main():
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    return main


def leave(well):
    """Ends a process; what is in its memory is not taken apart.

    Args:
        well: List, empty unless its code has come to its end.
    """
    if well:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def fork():
    """Forks a server off this process, which has computed nothing yet.

    Returns:
        Two text files: one for requests, and one with the answers.
    """
    (requests, ask), (told, answer) = os.pipe(), os.pipe()
    if os.fork():
        os.close(requests), os.close(answer)
        return os.fdopen(ask, "w"), os.fdopen(told)
    os.close(ask), os.close(told)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, now in enumerate((requests, nothing, nothing)):
        os.dup2(now, descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(descriptor, mode, closefd=False)
        for descriptor, mode in enumerate("rww")
    )
    _run_to_the_end(os.fdopen(answer, "w"))


def _run_to_the_end(answers):
    """Serves, and ends without what the process before would still do."""
    status = 0
    try:
        _quieten()
        job = serve(answers)
        if job is not None:
            atexit._clear()
            become(job)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else bool(error.code)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _quieten():
    gc.enable()
    gc.collect()
    gc.freeze()
    # To look for garbage as often as usual is a fifth of the time.
    gc.set_threshold(200_000)


def main():
    # The folder of this script: `python -P`, which Python 3.10 lacks.
    del sys.path[0]
    well = []
    # First, and so called after all that others register.
    atexit.register(leave, well)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # What is printed while something is imported is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _quieten()
    job = serve(answers)
    if job is not None:
        become(job)
        well.append(True)


if __name__ == "__main__":
    main()
