"""Starts a worker and a frontend, shows a conversation with them, and stops both.

With --serve both run until Ctrl-C instead. Their logs go to build/demo.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from demo import tour
from demo.pair import Pair, PairError, PairStoppedError

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models/demo/openvino"
LOGS = ROOT / "build/demo"

# In the exact profile the answers are the same whatever else runs.
WORKER_OPTIONS = ("--model-name", "demo", "--openvino.exact")

INTERRUPTED = 130
TERMINATED = 143
"""What a shell reports of a command that SIGINT or SIGTERM ended."""


def main() -> int:
    """Runs the demo and returns its exit code: 0, or 1 with the reason on standard error."""
    args = _arguments()
    signal.signal(signal.SIGTERM, _leave)
    pair = Pair(
        args.model,
        args.worker_port,
        args.frontend_port,
        args.logs,
        WORKER_OPTIONS,
        openai_port=args.openai_port if args.serve else None,
    )
    try:
        with pair:
            print("Starting a worker and a frontend ...", flush=True)
            seconds = pair.wait_until_ready()
            print(f"Ready after {seconds:.1f} s: worker {pair.worker}, frontend {pair.frontend}.\n")
            if args.serve:
                print(_what_to_try(pair), flush=True)
                pair.watch()
            else:
                tour.show(pair.frontend)
        print("\nBoth services have stopped.")
    except PairError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, PairStoppedError):
        print("\nBoth services have stopped.")
        return 0 if args.serve else INTERRUPTED
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="leave both running until Ctrl-C")
    parser.add_argument("--model", type=Path, default=MODEL, help="model folder")
    parser.add_argument("--worker-port", type=_port, default=50061)
    parser.add_argument("--frontend-port", type=_port, default=50051)
    parser.add_argument(
        "--openai-port", type=_port, default=8000, help="of the OpenAI-compatible HTTP interface"
    )
    parser.add_argument("--logs", type=Path, default=LOGS, help="folder for the services' logs")
    args = parser.parse_args()
    if args.worker_port == args.frontend_port:
        parser.error(f"--frontend-port: {args.frontend_port} is the worker's port too")
    if args.serve and args.openai_port in (args.worker_port, args.frontend_port):
        parser.error(f"--openai-port: {args.openai_port} is another service's port too")
    return args


def _port(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and 0 < int(value) < 2**16):
        raise argparse.ArgumentTypeError(f"{value!r} is not a port, from 1 to 65535")
    return int(value)


def _leave(*_: object) -> NoReturn:
    sys.exit(TERMINATED)


def _what_to_try(pair: Pair) -> str:
    target = pair.frontend
    command = Path(sys.executable).with_name("tokenwire")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    option = "" if target == "127.0.0.1:50051" else f" --target {target}"
    return f"""Chat with it in a browser: http://{pair.openai}/

Or try, from another terminal:

    {shown} chat{option}
    {shown} chat{option} "What is the capital of Norway?" --explain
    {shown} generate{option} "Once upon a time" --max-tokens 40
    {shown} workers{option}
    curl http://{pair.openai}/v1/models        (for clients of OpenAI: base_url http://{pair.openai}/v1)

Ctrl-C stops both."""


if __name__ == "__main__":
    sys.exit(main())
