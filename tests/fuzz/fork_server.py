"""
A process that has imported the package and runs `titok-hf` in forks of itself, so that a run takes no start-up time.

Reads a JSON list of arguments a line; answers with the process id of the run, and, when that has ended, with its exit
code.
"""

import json
import os
import sys
import traceback


def serve() -> None:
    import torch
    import typer.main

    from titok_hf import MaskGitTransformer1DModel, TiTokModel, TiTokPipeline  # noqa: F401
    from titok_hf.checkpoints import pull, push  # noqa: F401
    from titok_hf.cli.application import app
    from titok_hf.data import prepare, pretokenize  # noqa: F401
    from titok_hf.original import conversion  # noqa: F401

    list(typer.main.get_command(app).commands.values())  # imports the commands
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            _run(json.loads(line))
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(arguments: list[str]) -> None:
    """The command, in the forked process, which ends with it."""
    code: int | str | None = 1
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # standard output belongs to the answers
    try:
        from titok_hf.cli import main

        sys.argv = ["titok-hf", *arguments]
        main()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve()
