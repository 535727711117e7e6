"""The studio's page as it is built from `ui/studio`: files alone, no code. A test rebuilds them and compares."""
