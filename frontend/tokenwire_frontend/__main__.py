"""`tokenwire-frontend`, and `python -m tokenwire_frontend`."""

from tokenwire_service import completion
from tokenwire_service.launcher import launch


def main() -> None:
    """Runs the frontend until SIGTERM or SIGINT."""
    completion.answer("tokenwire-frontend", "tokenwire_frontend.settings:FrontendSettings")
    launch("tokenwire_frontend.main")


if __name__ == "__main__":
    main()
