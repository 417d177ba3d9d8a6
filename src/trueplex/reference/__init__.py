"""The embedded model: how it is trained and built. Its tasks are in `data.embedded`."""
