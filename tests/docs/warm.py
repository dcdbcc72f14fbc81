"""A process that has torch and transformers loaded, and forks for each command of a page: seconds of imports, once.

    python warm.py SOCKET        serves
    client(SOCKET, PROGRAM)      the text of a program to put on the PATH as `unforgotten` or `python`

A command runs in a fork with the caller's folder, environment and streams, as it would by itself. The parent computes
nothing, so that no thread of torch's is lost in a fork.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
import traceback

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect({where!r})
    told = json.dumps([{program!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(s, [len(told).to_bytes(8, "big")], [0, 1, 2])
    s.sendall(told)
    ended = s.recv(1)
sys.exit(ended[0] if ended else 1)
"""


def client(where: str, program: str) -> str:
    """A program that has its work done by the server at `where`."""
    return CLIENT.format(python=sys.executable, where=where, program=program)


def serve(where: str) -> None:
    """Until it is killed."""
    import peft  # noqa: F401
    import transformers  # noqa: F401

    import unforgotten.cli
    import unforgotten.training.trainer  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(where)
        s.listen()
        while True:
            connection, _ = s.accept()
            if os.fork() == 0:
                s.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    said = b""
    while len(said) < int.from_bytes(head, "big"):
        said += connection.recv(1 << 16)
    program, words, folder, environment = json.loads(said)
    for i, stream in enumerate(streams):
        os.dup2(stream, i)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    more = [os.path.abspath(part) for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:0] = [part for part in more if part not in sys.path]
    code = 1
    try:
        _run(program, words)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(bytes([code & 255]))
    os._exit(0)


def _run(program: str, words: list[str]) -> None:
    if program == "unforgotten":
        sys.argv = ["unforgotten", *words]
        from unforgotten.cli import main

        main()
    elif words[:1] == ["-m"]:
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
