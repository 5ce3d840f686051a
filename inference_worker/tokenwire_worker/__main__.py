"""`tokenwire-worker`, and `python -m tokenwire_worker`."""

from tokenwire_service import completion
from tokenwire_service.launcher import launch


def main() -> None:
    """Runs a worker until SIGTERM or SIGINT."""
    completion.answer("tokenwire-worker", "tokenwire_worker.settings:WorkerSettings")
    launch("tokenwire_worker.main")


if __name__ == "__main__":
    main()
