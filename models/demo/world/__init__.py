"""The demo model's world: everything that the model is trained on, and the held set that it is measured with."""
