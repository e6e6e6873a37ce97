"""``python -m gradmem`` is the console script ``gradmem``."""

from gradmem.lab.cli import main

if __name__ == "__main__":
    main()
