"""One thread that owns the device. Imports no web framework, no asyncio and no model library."""
