"""`python -m tokenwire_frontend`."""

from tokenwire_frontend.main import main

main()
