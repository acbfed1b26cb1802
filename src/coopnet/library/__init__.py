"""The method on any network and in anybody's training loop: what `import coopnet` offers."""
