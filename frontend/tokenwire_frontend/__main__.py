"""`tokenwire-frontend`, and `python -m tokenwire_frontend`."""

from tokenwire_service.launcher import launch


def main() -> None:
    """Runs the frontend until SIGTERM or SIGINT."""
    launch("tokenwire-frontend", "tokenwire_frontend.main", "frontend")


if __name__ == "__main__":
    main()
