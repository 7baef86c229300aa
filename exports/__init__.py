"""Networks as files that load without this project: SavedModel, Keras, TFLite, ONNX."""
