"""`python -m esp_ingestd` is `esp-ingestd`."""

from esp_ingestd.cli import main

if __name__ == "__main__":
    main()
