"""Which channels of a Keras model live or die together: gates, masks, costs, extraction."""
