"""The method for any network and any training loop: the public interface of `import coopnet`."""
