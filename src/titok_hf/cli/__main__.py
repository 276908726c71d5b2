"""`python -m titok_hf.cli` is `titok-hf`, for launchers that start Python modules."""

from . import main

if __name__ == "__main__":
    main()
