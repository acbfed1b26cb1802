"""The commands: thin, they read the configuration and call the library."""
