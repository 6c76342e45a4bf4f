"""``python -m montecarlo``: the command line ``normcompass``."""

from montecarlo.entry import main

# Worker processes import this module again, under another name.
if __name__ == "__main__":
    main()
