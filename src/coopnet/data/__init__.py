"""Images and labels, from a published source to the canonical arrays that training reads."""
