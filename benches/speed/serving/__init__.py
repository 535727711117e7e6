"""Rows measured over HTTP: real server processes on loopback, clients beside them. Imports no torch."""
