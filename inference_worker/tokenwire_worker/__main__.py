"""`python -m tokenwire_worker`."""

from tokenwire_worker.main import main

if __name__ == "__main__":
    main()
