"""`tokenwire-worker`, and `python -m tokenwire_worker`."""

from tokenwire_service.launcher import launch


def main() -> None:
    """Runs a worker until SIGTERM or SIGINT."""
    launch("tokenwire-worker", "tokenwire_worker.main", "openvino")


if __name__ == "__main__":
    main()
