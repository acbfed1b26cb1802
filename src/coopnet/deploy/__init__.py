"""A trained network outside of the study: exported, described by a model card, used on images, compared."""
